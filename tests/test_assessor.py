"""The embedded assessor: it shares nothing with the policy that it rates, and what it says rises with quality."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from scipy.stats import spearmanr
from skimage import data
from test_cli import conservator

from conservator.degradations import HELD_OUT, RESTORE_R1_SETTINGS, Kind, degrade, parse_recipe
from conservator.errors import ConservatorError
from conservator.image import Image, to_image
from conservator.metrics.fidelity import psnr, ssim
from conservator.training.assessor.order import AssessorOrder
from conservator.training.assessor.pictures import levels_of, rated_pictures, shares_of
from conservator.training.data.division import assessors_recipe, divide_photos, is_assessors, policys_recipe
from conservator.training.data.recipes import random_recipe, setting_recipe


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Some small parts of photos, each a file of its own."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        whole = getattr(data, name)()
        for i in range(6):
            PillowImage.fromarray(whole[20 * i : 20 * i + 120, 30 * i : 30 * i + 120]).save(folder / f"{name}-{i}.png")
    return folder


def test_photos_are_divided_by_their_content_alone(photos: Path, tmp_path: Path) -> None:
    paths = sorted(photos.iterdir())
    found = divide_photos(paths, photos)
    assert sorted([*found.assessor, *found.policy]) == paths
    assert 3 <= len(found.assessor) <= 13, "about a third of 24"
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for i, path in enumerate(reversed(found.assessor)):
        (renamed / f"{i}.png").write_bytes(path.read_bytes())
    again = divide_photos(sorted(renamed.iterdir()), renamed)
    assert len(again.assessor) == len(found.assessor), "another name, order and company change nothing"
    assert not again.policy


def test_no_make_of_damage_belongs_to_both_nor_to_a_bench() -> None:
    rng = np.random.default_rng(0)
    drawn = [damage for _ in range(300) for damage in assessors_recipe(rng)]
    assert all(map(is_assessors, drawn))
    kinds = Counter(damage.kind for damage in drawn)
    assert {Kind.LOW_LIGHT, Kind.HAZE, Kind.RAIN, Kind.GAUSSIAN_BLUR, Kind.MOTION_BLUR, Kind.NOISE, Kind.JPEG} == set(
        kinds
    )
    for draw in (random_recipe, setting_recipe("all")):
        assert any(is_assessors(damage) for _ in range(200) for damage in draw(rng)), "else nothing is tested"
        learned = [damage for _ in range(300) for damage in policys_recipe(draw, rng)]
        assert not any(map(is_assessors, learned))
        assert not any(isinstance(damage, HELD_OUT) for damage in (*learned, *drawn))
        assert {Kind.NOISE, Kind.JPEG, Kind.RAIN, Kind.HAZE, Kind.LOW_LIGHT} <= {damage.kind for damage in learned}


def test_settings_are_the_papers_in_number_and_the_later_are_unseen() -> None:
    assert [len(combinations) for combinations in RESTORE_R1_SETTINGS.values()] == [5, 3, 4, 3]
    sizes = [{len(kinds) for kinds in combinations} for combinations in RESTORE_R1_SETTINGS.values()]
    assert sizes == [{2}, {2}, {3}, {4, 5}]
    first, *others = ({frozenset(c) for c in combinations} for combinations in RESTORE_R1_SETTINGS.values())
    assert not first & set().union(*others)
    assert frozenset().union(*first) == frozenset().union(*first, *(frozenset().union(*one) for one in others))
    rng = np.random.default_rng(1)
    for name, combinations in RESTORE_R1_SETTINGS.items():
        drawn = {tuple(damage.kind for damage in setting_recipe(name)(rng)) for _ in range(100)}
        assert drawn == set(combinations)
    with pytest.raises(ConservatorError, match="setting"):
        setting_recipe("5")


def test_levels_are_shares_of_what_is_learned_from() -> None:
    learned = torch.tensor([[10.0, 0.1], [20.0, 0.2], [30.0, 0.3], [40.0, 0.4]])
    found = levels_of(torch.tensor([[5.0, 0.0], [20.0, 0.2], [45.0, 0.45], [20.0, 0.3]]), learned)
    assert found.tolist() == [1.0, 3.0, 5.0, 3.0]
    shares = shares_of(torch.tensor([1.0, 2.25, 5.0]))
    assert shares.tolist() == [[1, 0, 0, 0, 0], [0, 0.75, 0.25, 0, 0], [0, 0, 0, 0, 1]]


needs_mllm = pytest.mark.skipif(find_spec("transformers") is None, reason="needs: pip install 'conservator[mllm]'")


def order_of(photos: Path, output: Path) -> AssessorOrder:
    """The smallest training."""
    return AssessorOrder(
        *(photos, output, "classical"), starts=6, states=2, steps=4, batch=2, width=64, layers=2, every=2, device="cpu"
    )


@needs_mllm
def test_it_goes_on_to_the_bit_and_refuses_other_orders(photos: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from conservator.training.assessor.train import train_assessor

    def interrupt(line: str) -> None:
        if line.startswith("step 2"):
            raise KeyboardInterrupt

    order, told = order_of(photos, tmp_path / "cut"), list[str]()
    with pytest.raises(KeyboardInterrupt):
        train_assessor(order, interrupt)
    made = {path: path.stat().st_mtime_ns for path in (order.output / "pictures").iterdir()}
    cut = train_assessor(order, told.append)
    assert {path: path.stat().st_mtime_ns for path in made} == made, "no picture is made twice"
    assert len(made) == 6
    assert (order.output / "curve.csv").read_text().count("\n") == 3
    whole = train_assessor(replace(order, output=tmp_path / "whole"), told.append)
    one, two = (load_file(found.folder / "model.safetensors") for found in (cut, whole))
    assert all(torch.equal(one[name], value) for name, value in two.items())
    assert cut.scores["spearman"] == whole.scores["spearman"]
    with pytest.raises(ConservatorError, match="seed 0, now 1"):
        train_assessor(replace(order, seed=1), told.append)


@needs_mllm
def test_what_it_says_rises_with_quality(tmp_path: Path) -> None:
    """Of parts of other photos, and asked by the rater that pays a policy, of the folder that was written."""
    from conservator.claims import Identity
    from conservator.policies.vision_language import load_model
    from conservator.training.assessor.train import teach_assessor
    from conservator.training.rl.feedback import QualityRater

    def damaged(photo: np.ndarray, part: int) -> tuple[list[Image], Image]:
        clean = to_image(photo[40 * part : 40 * part + 64, 60 : 60 + 64])
        recipes = ("", "noise:low", "noise:high", "gaussian_blur:medium", "gaussian_blur:very_high")
        return [degrade(clean, parse_recipe(recipe, part)) if recipe else clean for recipe in recipes], clean

    files = []
    for number, photo in enumerate((data.astronaut(), data.coffee(), data.rocket())):
        for part in range(6):
            pictures, clean = damaged(photo, part)
            scores = [(psnr(one, clean, 50.0), ssim(one, clean)) for one in pictures]
            files.append(tmp_path / f"{number}-{part}.pt")
            held = [(one[0] * 255).round().to(torch.uint8) for one in pictures]
            torch.save({"pictures": held, "scores": torch.tensor(scores)}, files[-1])
    rated = rated_pictures(files, files)
    order = replace(order_of(tmp_path, tmp_path / "run"), steps=120, batch=12, every=60, rate=2e-3)
    trained = teach_assessor(order, rated, rated, Identity(), lambda _: None)
    rater, said, right = QualityRater(load_model(str(trained.folder))), list[float](), list[float]()
    for part in range(5):
        pictures, clean = damaged(data.chelsea(), part)
        said += [rater.rate(one) for one in pictures]
        right += [ssim(one, clean) for one in pictures]
    found = spearmanr(said, right)
    assert found.statistic > 0.4
    assert found.pvalue < 0.01, said
    assert all(1 <= one <= 5 for one in said)


@needs_mllm
@pytest.mark.parametrize(("command", "said"), [("assessor", "the third that no"), ("r1", "belong to the policy")])
def test_too_few_photos_are_told(command: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    PillowImage.fromarray(data.coffee()[:120, :120]).save(tmp_path / "one" / "a.png")
    asked = ["--photos", str(tmp_path / "one"), "--toolbox", "classical", "-o", str(tmp_path / "run")]
    refused = conservator("train", command, *asked, cwd=tmp_path)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert "at least 2 are needed" in refused.stderr


@needs_mllm
def test_the_training_asks_as_the_rater_asks(coffee: Image) -> None:
    """One pass over many pictures says what the rater finds for each."""
    from conservator.training.assessor.train import expected_levels, new_assessor
    from conservator.training.rl.feedback import QualityRater

    model = new_assessor(AssessorOrder(Path(), width=64, layers=2))
    model.network.eval()
    pictures = [coffee[..., :64, :64], coffee[..., 100:196, 50:178]]
    found = expected_levels(model, pictures)
    assert found.tolist() == pytest.approx([QualityRater(model).rate(picture) for picture in pictures], abs=1e-4)
