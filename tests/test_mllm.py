"""Vision-language planners, on tiny models with random weights that lie on disk as real ones do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from planner_lessons import TOOLS, observed, texts, tiny_model, write_data
from skimage import data as photos

from conservator.degradations import Kind, Severity, degrade, parse_recipe
from conservator.errors import ConservatorError, MissingExtraError, NameNotFoundError
from conservator.evaluation.decisions import time_decisions
from conservator.extras import import_mllm
from conservator.image import Image, to_array, to_image
from conservator.kinds import Wish
from conservator.perception import Look, NetworkPerception, Percept, study
from conservator.perception.perception import Blind, Gain, Perception
from conservator.policies import MllmPolicy, PolicyContext, check_policy, make_policy
from conservator.policies.beginnings import Beginnings
from conservator.policies.dialects import IMAGE, Message
from conservator.policies.reading import inputs_of
from conservator.policies.replies import Replied
from conservator.policies.vision_language import VisionLanguageModel, load_model, pack, shipped_model, unpack
from conservator.pool import LocalPool, Pool
from conservator.session import Apply, Decision, Observation, Rollback, Session, Step, Stop, Trajectory, run
from conservator.tools import Toolbox, make_toolbox

if find_spec("transformers") is None:
    pytest.skip("needs the extra: pip install 'conservator[mllm]'", allow_module_level=True)

from conservator.training.planner.nano import learn_tokenizer, new_nano
from conservator.training.planner.teaching import DIALECT


@pytest.fixture(scope="module")
def toolbox() -> Toolbox:
    return make_toolbox("classical").only(*TOOLS)


@pytest.fixture(scope="module")
def pool(toolbox: Toolbox) -> Iterator[Pool]:
    with LocalPool(toolbox, max_batch=1) as pool:
        yield pool


@pytest.fixture(scope="module")
def planner_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("planner"))


@pytest.fixture(scope="module")
def model(planner_data: Path) -> VisionLanguageModel:
    return tiny_model(planner_data)


@pytest.fixture(scope="module")
def checkpoint(model: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save(folder)
    return folder


def test_the_vocabulary_is_small_the_same_again_and_knows_every_tool(planner_data: Path, toolbox: Toolbox) -> None:
    one, two = (learn_tokenizer(texts(planner_data)) for _ in range(2))
    assert one.get_vocab() == two.get_vocab()
    assert len(one) < 1000
    assert all(len(one(name)["input_ids"]) == 1 for name in TOOLS)
    strange = "plan: photoshop_2000 → größer\n\t<image>"
    assert one.decode(one(strange)["input_ids"]) == strange


def test_nano_is_small_enough_for_the_package(planner_data: Path) -> None:
    nano = new_nano(texts(planner_data))
    assert 5e6 < nano.parameters < 20e6
    assert sum(2 * tensor.numel() for tensor in pack(nano)[0].values()) < 30e6


def test_fine_detail_is_seen_from_the_start(model: VisionLanguageModel) -> None:
    """The energy of noise and the blocks of a JPEG stand out in what the untrained first layer gives."""
    clean = to_image(photos.astronaut()[:128, :128])
    patches = [model.patches(degrade(clean, parse_recipe(text, 1)))[0] for text in ("noise:medium", "jpeg:very_high")]
    embed = model.network.model.visual.patch_embed
    with torch.inference_mode():
        before, noisy, blocky = (embed(p).var(0)[:-1].sort().values for p in [model.patches(clean)[0], *patches])
    half = len(before) // 2
    assert noisy.sum() > 2 * before.sum()
    assert blocky[:half].sum() < 0.5 * before[:half].sum()


def test_a_folder_is_loaded_as_it_was_saved(checkpoint: Path, model: VisionLanguageModel, toolbox: Toolbox) -> None:
    assert {path.suffix for path in checkpoint.iterdir()} <= {".json", ".safetensors", ".jinja"}
    loaded = load_model(str(checkpoint))
    question = DIALECT.ask(observed(toolbox, torch.rand(1, 3, 64, 64)), "balanced")
    prompt = model.prompt(question)
    assert torch.equal(prompt.ids, loaded.prompt(question).ids)
    assert torch.allclose(model.read(prompt).next(()), loaded.read(prompt).next(()), atol=0.02)  # half precision
    make_policy(f"mllm:{checkpoint}", PolicyContext(pool=None, perception=Blind()))  # type: ignore[arg-type]


def test_patches_are_those_of_transformers(model: VisionLanguageModel) -> None:
    """Against its own image processor, on a picture that needs no resizing."""
    transformers = import_mllm("transformers")
    picture = to_image(photos.coffee()[:96, :128])
    theirs = transformers.Qwen2VLImageProcessorPil(
        patch_size=16, merge_size=2, temporal_patch_size=1, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_resize=False
    )(PillowImage.fromarray(to_array(picture, np.uint8)), return_tensors="pt")
    patches, grid = model.patches(picture)
    assert theirs["image_grid_thw"][0].tolist() == grid.tolist()
    assert torch.allclose(theirs["pixel_values"], patches, atol=1e-5)


def test_a_picture_keeps_its_size(model: VisionLanguageModel) -> None:
    patches, grid = model.patches(torch.rand(1, 3, 63, 130))
    assert (grid.tolist(), len(patches)) == ([1, 4, 10], 40)


def test_pictures_and_texts_must_match(model: VisionLanguageModel) -> None:
    picture = torch.rand(1, 3, 32, 32)
    assert int((model.prompt([Message("user", f"{IMAGE} {IMAGE}", (picture,) * 2)]).ids == model.image).sum()) == 2
    for text in ("no picture", IMAGE * 2):
        with pytest.raises(ConservatorError, match="pictures"):
            model.prompt([Message("user", text, (picture,))])


@torch.inference_mode()
def test_reading_on_is_reading_the_whole(model: VisionLanguageModel, toolbox: Toolbox) -> None:
    """What is kept from earlier continuations must change nothing; nor must another prompt in the same batch."""
    prompt = model.prompt(DIALECT.ask(observed(toolbox, torch.rand(5, 3, 64, 64)), "fidelity"))
    reading = model.read(prompt)
    for path in [(), (9,), (9, 30, 31, 32), (9, 30), (9, 30, 31, 40), (50, 51)]:
        whole = replace(prompt, ids=torch.cat([prompt.ids, torch.tensor(path, dtype=torch.long)]))
        longer = model.prompt(DIALECT.ask(observed(toolbox, torch.rand(1, 3, 320, 320)), "balanced"))
        together = model.network(**inputs_of(model, [longer, whole])).logits[1, len(whole.ids) - 1]
        assert torch.allclose(reading.next(path), together.log_softmax(-1), atol=1e-4), path


@pytest.mark.parametrize("name", ["mllm", "mllm-once"])
def test_random_weights_hold_the_contract(
    name: str, checkpoint: Path, noisy: Image, toolbox: Toolbox, pool: Pool
) -> None:
    policy = make_policy(f"{name}:{checkpoint}", PolicyContext(pool, Blind()))
    session = Session(study(noisy), toolbox, pool, Blind(), max_steps=5)
    check_policy(policy, session)
    first = session.trajectory.steps[1].decision
    assert first is not None
    assert "%" in first.thought
    assert first.reply


@pytest.fixture(scope="module")
def noisy(coffee: Image) -> Image:
    return degrade(coffee[..., :200, :200], parse_recipe("noise:high", seed=4))


def test_at_once_the_plan_is_followed(model: VisionLanguageModel, noisy: Image, toolbox: Toolbox, pool: Pool) -> None:
    policy = MllmPolicy(model, Blind(), once=True)
    session = Session(noisy, toolbox, pool, Blind())
    plan = Decision(Apply("deblock"), ("wavelet_denoise", "gamma_brighten"), reply="plan: ...", by="mllm")
    session.step(plan)
    assert run(policy, session).toolchain() == ("deblock", "wavelet_denoise", "gamma_brighten")
    assert session.trajectory.last.decision == Decision(Stop(), thought="the plan is carried out", by="mllm")


class Verdict(Blind):
    """A perception that says the same of every treatment."""

    def __init__(self, gain: float) -> None:
        self._gain = gain

    def grade(self, image: Image) -> Percept:
        return Percept({Kind.NOISE: Severity.HIGH}, {Kind.NOISE: 0.9})

    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        return Gain.sure(self._gain)


def test_perception_has_a_veto_over_what_the_model_did(
    model: VisionLanguageModel, noisy: Image, toolbox: Toolbox, pool: Pool
) -> None:
    for gain, vetoed in ((-0.5, True), (0.5, False)):
        policy, session = MllmPolicy(model, Verdict(gain)), Session(noisy, toolbox, pool, Verdict(gain))
        session.step(Decision(Apply("wavelet_denoise")))
        decision = policy.act(session.observe())
        assert decision.thought.startswith("perception estimates that the last step did harm (-0.5 dB)") == vetoed
        assert (decision.action == Rollback(0)) == vetoed
    refused = run(MllmPolicy(model, Verdict(-0.5)), Session(noisy, toolbox, pool, Verdict(-0.5)))
    assert refused.toolchain() == ()
    once = MllmPolicy(model, Verdict(-0.5), once=True)
    session = Session(noisy, toolbox, pool, Verdict(-0.5))
    session.step(Decision(Apply("deblock"), ("wavelet_denoise",), by="mllm"))
    assert once.act(session.observe()).action == Apply("wavelet_denoise")
    session.step(Decision(Apply("tv_denoise"), ("wavelet_denoise",)))  # somebody else's plan is not its own
    assert once.act(session.observe()).thought != "as planned"


def test_what_no_estimate_knows_is_left_to_the_model(
    model: VisionLanguageModel, noisy: Image, toolbox: Toolbox, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, read = list[object](), model.read
    monkeypatch.setattr(model, "heeds_wishes", True)
    monkeypatch.setattr(model, "read", lambda prompt: asked.append(prompt) or read(prompt))
    session = Session(noisy, toolbox, pool, Verdict(-0.5))
    session.step(Decision(Apply("wavelet_denoise")))
    MllmPolicy(model, Verdict(-0.5)).act(session.observe())
    assert not asked  # the step did harm by perception's estimate
    MllmPolicy(model, Verdict(-0.5), wish=Wish(prefer="smooth")).act(session.observe())
    assert len(asked) == 1
    gained, back = Session(noisy, toolbox, pool, Verdict(0.5)), list[bool]()
    gained.step(Decision(Apply("wavelet_denoise")))
    replied = Replied(Decision(Stop()), {})
    monkeypatch.setattr("conservator.policies.mllm.choose", lambda *a, rollbacks: back.append(rollbacks) or replied)
    MllmPolicy(model, Verdict(0.5)).act(gained.observe())
    MllmPolicy(model, Verdict(0.5), wish=Wish(prefer="smooth")).act(gained.observe())
    assert back == [False, True]  # what gained clearly is kept, unless the user prefers what no estimate knows


def test_a_model_forgets_before_each_decision_that_is_timed(
    model: VisionLanguageModel, noisy: Image, toolbox: Toolbox, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, forgotten = Beginnings(model.image, model.end, 2), list[bool]()
    monkeypatch.setattr(model, "beginnings", began)
    monkeypatch.setattr(began, "forget", lambda: forgotten.append(True))
    observation = Session(noisy, toolbox, pool, Verdict(0.5)).observe()
    time_decisions(MllmPolicy(model, Verdict(0.5)), [observation, observation], company=3, repeats=2)
    assert len(forgotten) == 2 * 2 + 3 * 2


def test_a_small_photo_is_enlarged_last_where_that_is_wanted(model: VisionLanguageModel, coffee: Image) -> None:
    tools = make_toolbox("conservator").only("upscale_x2", "denoise_light")
    small = observed(tools, coffee[..., :100, :100])
    step = replace(small.trajectory.last, percept=Percept({Kind.LOW_RESOLUTION: Severity.HIGH}))
    done = replace(small.trajectory.last, id=1, parent=0, decision=Decision(Apply("denoise_light"), by="mllm"))
    planned = replace(small, trajectory=Trajectory((step, replace(done, percept=step.percept))))
    once = MllmPolicy(model, Blind(), once=True)
    assert once.act(planned).action == Apply("upscale_x2")
    assert once.act(replace(planned, tools=planned.tools[1:])).action == Stop()
    last = replace(done, id=2, parent=1, decision=Decision(Apply("upscale_x2")))
    enlarged = replace(small, trajectory=Trajectory((*planned.trajectory.steps, last)))
    assert MllmPolicy(model, Blind()).act(enlarged).action == Stop()


def test_only_a_study_of_a_large_image_is_shown(model: VisionLanguageModel, toolbox: Toolbox, coffee: Image) -> None:
    policy = MllmPolicy(model, Blind())
    large = policy.reply(observed(toolbox, coffee))
    assert policy.reply(observed(toolbox, study(coffee))).chances == large.chances


def test_what_is_no_planner_is_refused_in_a_sentence(tmp_path: Path, pool: Pool) -> None:
    context = PolicyContext(pool, Blind())
    with pytest.raises(NameNotFoundError, match="mllm"):
        make_policy(f"mllm:{tmp_path / 'nothing'}", context)
    with pytest.raises(ConservatorError, match="cannot be loaded"):
        make_policy(f"mllm:{tmp_path}", context)
    import_mllm("transformers").BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ConservatorError, match="bert"):
        make_policy(f"mllm:{tmp_path}", context)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, extra in (("transformers", "mllm"), ("trl", "sft")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtraError, match=rf"conservator\[{extra}\]"):
            import_mllm(name)


def test_a_model_ships_as_one_file(
    model: VisionLanguageModel, toolbox: Toolbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import conservator.weights as weights

    tensors, words = pack(model)
    weights.store_weights(tmp_path, "nano", tensors, {"license": "Apache-2.0"}, {}, words)
    monkeypatch.setattr(weights, "WEIGHTS", tmp_path)
    shipped_model.cache_clear()
    prompt = model.prompt(DIALECT.ask(observed(toolbox, torch.rand(1, 3, 64, 64)), "balanced"))
    shipped = shipped_model()
    shipped_model.cache_clear()
    assert torch.allclose(shipped.read(prompt).next(()), model.read(prompt).next(()), atol=0.02)
    with pytest.raises(ConservatorError, match="train sft"):
        shipped_model("another")
    renamed = {name.replace("language_model", "text_model"): value for name, value in tensors.items()}
    with pytest.raises(ConservatorError, match="no place for the weights"):
        unpack(renamed, words)


def test_the_shipped_planner_treats_what_is_wrong(shipped_perception: Perception) -> None:
    """Asked in its own words, it begins with a tool for the damage, for nearly all of three photos in four states."""
    policy = MllmPolicy(shipped_model(), shipped_perception, "fidelity")
    tools = {spec.name: spec for spec in make_toolbox("conservator").specs}
    right = []
    for name in ("coffee", "astronaut", "chelsea"):
        clean = to_image(getattr(photos, name)()[:256, :256])
        for kind in (Kind.NOISE, Kind.JPEG, Kind.RAIN, Kind.HAZE):
            damaged = degrade(clean, parse_recipe(f"{kind}:very_high", 1))
            step = Step(0, None, None, damaged, shipped_perception.grade(damaged))
            action = policy.act(Observation(Trajectory((step,)), tuple(tools.values()), 12)).action
            right.append(isinstance(action, Apply) and kind in tools[action.tool].removes)
    assert sum(right) >= 10, right


@pytest.fixture(scope="module")
def shipped_perception() -> Perception:
    return NetworkPerception.load()
