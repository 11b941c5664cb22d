"""Perceptual feedback, asked of a tiny vision-language model with random weights that lies on disk as real ones do."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from planner_lessons import SIZE

from conservator.degradations import degrade, parse_recipe
from conservator.errors import ConservatorError
from conservator.image import Image
from conservator.perception import study
from conservator.policies.dialects import IMAGE, Message
from conservator.policies.reading import inputs_of
from conservator.policies.vision_language import VisionLanguageModel, load_model
from conservator.training.rl.feedback import ANSWER, QUESTION, RATED_LEVELS, QualityRater
from conservator.training.rl.order import R1Order

if find_spec("transformers") is None:
    pytest.skip("needs the extra: pip install 'conservator[mllm]'", allow_module_level=True)

from conservator.training.planner.nano import new_nano


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rater")
    words = [QUESTION, ANSWER, *(f" {level}" for level in RATED_LEVELS)]
    new_nano(words * 3, **SIZE).save(folder)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> VisionLanguageModel:
    return load_model(str(checkpoint))


@pytest.fixture(scope="module")
def noisy(coffee: Image) -> Image:
    return degrade(coffee[..., :400, :480], parse_recipe("noise:high", seed=4))


@torch.inference_mode()
def chance_of(model: VisionLanguageModel, picture: Image, level: str) -> float:
    """How likely a level follows, token by token, from one pass over the whole text: none of it is the rater's."""
    prompt = model.prompt([Message("user", f"How would you rate the quality of this image?\n{IMAGE}", (picture,))])
    reply = torch.tensor([*model.tokens("The quality of the image is"), *model.tokens(f" {level}")])
    first = len(prompt.ids) + len(model.tokens("The quality of the image is"))
    prompt = type(prompt)(torch.cat([prompt.ids, reply]), prompt.patches, prompt.grids)
    logits = model.network(**inputs_of(model, [prompt])).logits[0].float().log_softmax(-1)
    return float(sum(logits[place - 1, int(prompt.ids[place])] for place in range(first, len(prompt.ids))).exp())


def test_the_rating_is_what_the_level_words_are_worth(model: VisionLanguageModel, noisy: Image) -> None:
    """The expectation over the probabilities of the five words alone, as DeQA-Score has it."""
    picture = noisy[..., :64, :64]
    chances = {level: chance_of(model, picture, level) for level in RATED_LEVELS}
    assert len({model.tokens(f" {level}")[:-1] for level in RATED_LEVELS}) == 1, "only the last token tells the level"
    together = sum(chances.values())
    expected = sum(worth * chances[level] / together for level, worth in RATED_LEVELS.items())
    assert QualityRater(model).rate(picture) == pytest.approx(expected, abs=1e-4)
    found = QualityRater(model).chances(picture)
    assert sum(found.values()) == pytest.approx(1)
    assert list(RATED_LEVELS.values()) == [5, 4, 3, 2, 1]
    assert max(found.values()) < 1


def test_overview_and_native_crops_are_shown(model: VisionLanguageModel, noisy: Image) -> None:
    parts = study(noisy)
    rated = {shown: QualityRater(model, shown).rate(noisy) for shown in ("overview", "crops", "both")}
    each = [QualityRater(model).rate(part) for part in parts.split(1)]
    assert len(each) == 5
    assert rated["overview"] == pytest.approx(each[0])
    assert rated["crops"] == pytest.approx(sum(each[1:]) / 4)
    assert rated["both"] == pytest.approx((rated["overview"] + rated["crops"]) / 2)
    assert QualityRater(model).rate(parts) == pytest.approx(rated["both"])
    assert len({f"{value:.6f}" for value in rated.values()}) == 3


def test_each_picture_is_rated_once(model: VisionLanguageModel, noisy: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    rater, asked = QualityRater(model), list[int]()
    was = model.read
    monkeypatch.setattr(model, "read", lambda prompt: asked.append(1) or was(prompt))
    assert rater.rate(noisy) == rater.rate(noisy.clone())
    assert len(asked) == 5


def test_an_order_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConservatorError, match="--model"):
        R1Order(photos=tmp_path, reward="feedback")
    with pytest.raises(ConservatorError, match="--damaged"):
        R1Order()
    with pytest.raises(ConservatorError, match="give no PSNR"):
        R1Order(damaged=tmp_path, reward="psnr")
    assert R1Order(damaged=tmp_path, reward="feedback", model="somewhere").folder == tmp_path
