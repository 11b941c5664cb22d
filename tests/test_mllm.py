"""Vision-language planners, on tiny models with random weights that lie on disk as real ones do."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from skimage import data as photos
from typer.testing import CliRunner

from conservator.apps.cli import app
from conservator.degradations import Kind, Severity, degrade, parse_recipe
from conservator.errors import ConservatorError, MissingExtraError, NameNotFoundError
from conservator.extras import import_mllm
from conservator.image import Image, to_array, to_image
from conservator.perception import Look, Percept, study
from conservator.perception.perception import Blind, Gain
from conservator.policies import MllmPolicy, PolicyContext, check_policy, make_policy
from conservator.policies.dialects import IMAGE, Message
from conservator.policies.vision_language import VisionLanguageModel, inputs_of, load_model, pack, shipped_model, unpack
from conservator.pool import LocalPool, Pool
from conservator.session import Action, Apply, Decision, Observation, Rollback, Session, Step, Stop, Trajectory, run
from conservator.tools import Toolbox, make_toolbox

if find_spec("transformers") is None:
    pytest.skip("needs the extra: pip install 'conservator[mllm]'", allow_module_level=True)

from conservator.training.lessons import PlannerLesson, left_out, read_lessons, without_pictures, write_lessons
from conservator.training.nano import learn_tokenizer, new_nano
from conservator.training.orders import SftOrder, VisionOrder
from conservator.training.prefix import IGNORED, shared_prefix_loss
from conservator.training.situations import Situation
from conservator.training.teaching import DIALECT, Collator, is_right, shuffle_lessons

needs_sft = pytest.mark.skipif(find_spec("trl") is None, reason="needs the extra: pip install 'conservator[sft]'")
SIZE = {"width": 64, "layers": 2}
TOOLS = ("wavelet_denoise", "deblock", "gamma_brighten")


@pytest.fixture(scope="module")
def toolbox() -> Toolbox:
    return make_toolbox("classical").only(*TOOLS)


@pytest.fixture(scope="module")
def pool(toolbox: Toolbox) -> Iterator[Pool]:
    with LocalPool(toolbox, max_batch=1) as pool:
        yield pool


def observed(toolbox: Toolbox, image: Image, *actions: Apply | Rollback) -> Observation:
    steps = [Step(0, None, None, image, Percept())]
    for action in actions:
        parent = action.to if isinstance(action, Rollback) else steps[-1].id
        steps.append(Step(len(steps), parent, Decision(action), image, Percept()))
    return Observation(Trajectory(tuple(steps)), toolbox.specs, 13 - len(steps))


def questions(
    toolbox: Toolbox,
) -> list[tuple[str, Image, tuple[Apply | Rollback, ...], Decision, dict[Action, float]]]:
    """Name, picture, history, answer and values of questions that can be told apart by looking, or by the history."""
    clean = to_image(photos.coffee()[100:228, 100:228])
    noisy, dark = (degrade(clean, parse_recipe(text, 1)) for text in ("noise:very_high", "low_light:very_high"))
    low: dict[Action, float] = dict.fromkeys((Stop(), *map(Apply, TOOLS)), -1.0)
    answers = {
        "noisy-plan": (noisy, (), Decision(Apply("wavelet_denoise"), ("deblock",))),
        "dark-plan": (dark, (), Decision(Apply("gamma_brighten"))),
        "clean-stop": (clean, (), Decision(Stop())),
        "dark-rollback": (dark, (Apply("deblock"),), Decision(Rollback(0))),
    }
    return [(name, *rest, low | {rest[-1].action: 1.0}) for name, rest in answers.items()]  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def planner_data(tmp_path_factory: pytest.TempPathFactory, toolbox: Toolbox) -> Path:
    """A folder as 'data build' makes it."""
    folder = tmp_path_factory.mktemp("planner")
    (folder / "images").mkdir()
    lessons = []
    for name, image, history, answer, values in questions(toolbox):
        picture = f"images/{name}.webp"
        PillowImage.fromarray(to_array(image, np.uint8)).save(folder / picture, lossless=True)
        lesson = PlannerLesson(
            name=name,
            folder=folder,
            pictures=(picture,) * (1 + len(history)),
            observation=without_pictures(observed(toolbox, image, *history)),
            objective="balanced",
            gains={},
            answer=answer,
            alternatives=(),
            values=values,
            situation=Situation(name.partition("-")[2]),
            photo="coffee.png",
            recipe=parse_recipe("noise:high,jpeg:high", 1),
        )
        lessons.append(lesson)
    write_lessons(folder, lessons)
    return folder


def texts(folder: Path) -> list[str]:
    from conservator.training.sft import texts_of

    return texts_of(read_lessons(folder))


@pytest.fixture(scope="module")
def model(planner_data: Path) -> VisionLanguageModel:
    nano = new_nano(texts(planner_data), **SIZE)
    nano.network.eval()
    return nano


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
    plan = Decision(Apply("deblock"), ("wavelet_denoise", "gamma_brighten"), reply="plan: ...")
    session.step(plan)
    assert run(policy, session).toolchain() == ("deblock", "wavelet_denoise", "gamma_brighten")
    assert session.trajectory.last.decision == Decision(Stop(), thought="the plan is carried out")


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
    session.step(Decision(Apply("deblock"), ("wavelet_denoise",)))
    assert once.act(session.observe()).action == Apply("wavelet_denoise")


def test_a_small_photo_is_enlarged_last_where_that_is_wanted(model: VisionLanguageModel, coffee: Image) -> None:
    tools = make_toolbox("conservator").only("upscale_x2", "denoise_light")
    small = observed(tools, coffee[..., :100, :100])
    step = replace(small.trajectory.last, percept=Percept({Kind.LOW_RESOLUTION: Severity.HIGH}))
    done = replace(small.trajectory.last, id=1, parent=0, decision=Decision(Apply("denoise_light")))
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


def test_a_shared_beginning_changes_neither_loss_nor_gradients(planner_data: Path, model: VisionLanguageModel) -> None:
    lessons = read_lessons(planner_data)
    collate = Collator(model, lessons, 0, 0.0)
    whole = collate([{"lesson": i, "turn": 0} for i in range(4)])
    texts_only = {name: value for name, value in whole.items() if name not in ("pixel_values", "image_grid_thw")}
    texts_only["input_ids"] = whole["input_ids"].masked_fill(whole["input_ids"] == model.image, model.end)
    texts_only["mm_token_type_ids"] = torch.zeros_like(whole["mm_token_type_ids"])
    single = collate([{"lesson": 0, "turn": 0}])  # all of it is shared, but what is learned
    network = copy.deepcopy(model.network)
    network.requires_grad_(True)
    for batch in (whole, texts_only, single):
        found = []
        for loss in (shared_prefix_loss(network, batch), network(**batch).loss):
            network.zero_grad()
            loss.backward()
            slopes = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
            found.append((float(loss.detach()), slopes))
        assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
        assert torch.allclose(found[0][1], found[1][1], rtol=1e-3, atol=1e-5)
    with torch.inference_mode():
        total, mean = (float(shared_prefix_loss(network, whole, count)) for count in (1, None))
    assert total == pytest.approx(mean * int((whole["labels"] != IGNORED).sum()), rel=1e-5)


def test_questions_in_words_come_without_pictures(planner_data: Path, model: VisionLanguageModel) -> None:
    collate = Collator(model, read_lessons(planner_data), 0, 0.0)
    rows = [{"lesson": i, "turn": 0, "words": True} for i in range(2)]
    assert not {"pixel_values", "image_grid_thw"} & set(collate(rows))
    assert model.image not in collate(rows)["input_ids"]
    assert "pixel_values" in collate([*rows, {"lesson": 2, "turn": 0, "words": False}])


def test_questions_about_one_toolbox_come_together(planner_data: Path) -> None:
    lessons = read_lessons(planner_data) * 6
    for i in range(0, len(lessons), 3):
        observation = lessons[i].observation
        lessons[i] = replace(lessons[i], observation=replace(observation, tools=observation.tools[:2]))
    order = shuffle_lessons(lessons, 4, np.random.default_rng(0))
    assert sorted(order) == list(range(len(lessons)))
    assert all(len({lessons[i].observation.tools for i in order[k : k + 4]}) == 1 for k in range(0, 24, 4))
    assert (order != shuffle_lessons(lessons, 4, np.random.default_rng(1))).any()


def test_what_is_left_out_is_of_a_situation_or_has_these_kinds_together(planner_data: Path) -> None:
    recipe = parse_recipe("rain:low,noise:low,jpeg:low", 1)
    lesson = replace(read_lessons(planner_data)[0], situation=Situation.PLAN, recipe=recipe)
    assert left_out(lesson, ["plan"])
    assert left_out(lesson, ["stop", "jpeg+rain"])
    assert not left_out(lesson, ["stop", "rain+haze"])
    with pytest.raises(NameNotFoundError, match="situation or kind 'ruin'; did you mean rain"):
        left_out(lesson, ["ruin+noise"])


@pytest.fixture(scope="module")
def taught(planner_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a nano model that has learned its few questions by heart, in two runs."""
    pytest.importorskip("trl", reason="needs the extra: pip install 'conservator[sft]'")
    from conservator.training.sft import train_sft

    order = SftOrder(
        (planner_data,), tmp_path_factory.mktemp("sft"), steps=50, batch=4, rate=3e-3, studies=0.0, every=50
    )
    order = replace(order, **SIZE, words=0.2)
    assert train_sft(order, lambda line: None).steps == 50
    assert train_sft(replace(order, steps=150), lambda line: None).steps == 150
    return order.output


@needs_sft
def test_training_lowers_the_loss_and_goes_on(taught: Path) -> None:
    rows = [line.split(",") for line in (taught / "curve.csv").read_text().splitlines()]
    steps, losses = ([float(row[rows[0].index(name)]) for row in rows[1:]] for name in ("step", "loss"))
    assert steps == [50, 100, 150]
    assert losses[-1] < 0.1 < 1 < losses[0]


@needs_sft
def test_what_was_learned_by_heart_is_answered_right(taught: Path, toolbox: Toolbox) -> None:
    policy = MllmPolicy(load_model(str(taught / "model")), Blind())
    for name, image, history, answer, _ in questions(toolbox):
        replied = policy.reply(observed(toolbox, image, *history))
        assert (replied.decision.action, replied.decision.plan) == (answer.action, answer.plan), name
        assert next(iter(replied.chances.values())) > 0.8


@needs_sft
def test_a_taught_model_plans_in_a_session(taught: Path, toolbox: Toolbox, pool: Pool) -> None:
    noisy = questions(toolbox)[0][1]
    once = run(
        MllmPolicy(load_model(str(taught / "model")), Blind(), once=True), Session(noisy, toolbox, pool, Blind())
    )
    assert once.toolchain() == ("wavelet_denoise", "deblock")


def test_no_folder_teaches_what_another_holds_out(planner_data: Path, tmp_path: Path) -> None:
    from conservator.training.sft import _lessons

    folders = [tmp_path / "many", tmp_path / "few"]
    for folder, numbers in zip(folders, (range(40), range(3, 23)), strict=True):
        shutil.copytree(planner_data, folder)
        lesson = read_lessons(folder)[0]
        write_lessons(folder, [replace(lesson, photo=f"{n:02}.png") for n in numbers])
    lessons, learned, held_out = _lessons(folders)
    assert len(lessons) == 60
    assert {lesson.photo for lesson in held_out} == {"09.png", "19.png", "29.png", "39.png"}
    assert not {lesson.photo for lesson in learned} & {lesson.photo for lesson in held_out}


@needs_sft
def test_two_folders_of_questions_are_asked_as_much(taught: Path, planner_data: Path, tmp_path: Path) -> None:
    from conservator.training.sft import train_sft

    few = shutil.copytree(planner_data, tmp_path / "few")
    write_lessons(few, read_lessons(few)[:1])
    said = list[str]()
    order = SftOrder((planner_data, few), tmp_path / "out", str(taught / "model"), steps=1, batch=2)
    trained = train_sft(order, said.append)
    assert "8 questions" in said[0]
    assert load_model(str(trained.folder)).parameters == load_model(str(taught / "model")).parameters


@needs_sft
def test_adapters_learn_on_a_checkpoint_and_are_loaded_with_it(
    taught: Path, planner_data: Path, tmp_path: Path, toolbox: Toolbox
) -> None:
    from conservator.training.sft import train_sft

    base = taught / "model"
    before = {name: value.clone() for name, value in load_model(str(base)).network.state_dict().items()}
    order = SftOrder((planner_data,), tmp_path, str(base), steps=8, lora=True, rank=4, batch=4, rate=1e-3, every=4)
    trained = train_sft(order, lambda line: None)
    assert {path.name for path in trained.folder.glob("*.safetensors")} == {"adapter_model.safetensors"}
    adapted = load_model(str(trained.folder))
    after = adapted.network.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert any("q_proj" in name for name in changed)
    assert any("visual" in name for name in changed)
    assert not any("embed_tokens" in name for name in changed)
    batch = Collator(adapted, read_lessons(planner_data), 0, 0.0)([{"lesson": i, "turn": 0} for i in range(4)])
    with torch.inference_mode():
        assert float(adapted.network(**batch).loss) < 0.5


@needs_sft
def test_a_whole_checkpoint_is_tuned(taught: Path, planner_data: Path, tmp_path: Path) -> None:
    from conservator.training.sft import train_sft

    trained = train_sft(SftOrder((planner_data,), tmp_path, str(taught / "model"), steps=2, batch=2), lambda line: None)
    assert load_model(str(trained.folder)).parameters == trained.model.parameters


@needs_sft
def test_orders_that_cannot_be_are_refused(taught: Path, planner_data: Path, tmp_path: Path) -> None:
    from conservator.training.sft import train_sft

    with pytest.raises(ConservatorError, match="--lora"):
        train_sft(SftOrder((planner_data,), tmp_path, lora=True))
    with pytest.raises(ConservatorError, match="data build"):
        train_sft(SftOrder((tmp_path,), tmp_path))
    with pytest.raises(ConservatorError, match="no question is left"):
        train_sft(SftOrder((planner_data,), tmp_path, without=tuple(situation.value for situation in Situation)))
    with pytest.raises(ConservatorError, match="batch 4, now 2"):
        train_sft(SftOrder((planner_data,), taught, steps=150, batch=2))
    other = shutil.copytree(planner_data, tmp_path / "other")
    lessons = read_lessons(other)
    write_lessons(other, [*lessons[1:], lessons[0]])
    same = SftOrder((planner_data,), taught, steps=150, batch=4, rate=3e-3, studies=0.0, words=0.2, **SIZE)
    with pytest.raises(ConservatorError, match=r"lessons \w{16}, now \w{16}; use another folder"):
        train_sft(replace(same, data=(other,)))


def test_only_the_answer_is_learned(model: VisionLanguageModel, planner_data: Path) -> None:

    lessons = read_lessons(planner_data)
    collator = Collator(model, lessons, 0, 0.5)
    rows = [{"lesson": i, "turn": turn} for i in range(4) for turn in range(3)]
    batch, again = collator(rows), collator(rows)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    for row, labels in zip(rows, batch["labels"], strict=True):
        learned = labels[labels >= 0].tolist()
        assert model.tokenizer.decode(learned) == DIALECT.write(lessons[row["lesson"]].answer) + "<|im_end|>"
    counts = (batch["input_ids"] == model.image).sum(1)
    assert set(counts.tolist()) == {16, 5 * 9}  # whole pictures of 128 pixels, and studies of five of 96


def test_examinations_know_right_from_wrong(planner_data: Path) -> None:
    noisy, dark, clean, back = read_lessons(planner_data)
    assert is_right(noisy, Decision(Apply("wavelet_denoise")))
    assert not is_right(noisy, Decision(Stop()))
    assert is_right(clean, Decision(Stop()))
    assert not is_right(dark, Decision(Apply("richardson_lucy")))
    assert is_right(back, Decision(Rollback(0)))
    assert not is_right(back, Decision(Rollback(1)))
    assert not is_right(back, Decision(None))


def test_the_tower_learns_to_see_and_goes_on(tmp_path: Path, planner_data: Path) -> None:
    from conservator.training.vision import train_vision

    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("coffee", "astronaut", "chelsea"):
        PillowImage.fromarray(getattr(photos, name)()).save(folder / f"{name}.png")
    order = VisionOrder(folder, tmp_path / "whole", steps=20, batch=4, side=64, every=10, workers=0, **SIZE)
    lines: list[str] = []
    train_vision(order, lines.append)
    rows = [row.split(",") for row in (tmp_path / "whole" / "curve.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["step", "10", "20"]
    assert float(rows[2][2]) < float(rows[1][2])
    path = train_vision(order, lines.append)  # nothing is left to do
    assert len(lines) == 2
    with pytest.raises(ConservatorError, match="another folder"):
        train_vision(replace(order, seed=1))
    if find_spec("trl") is not None:
        from conservator.training.sft import train_sft

        planner = SftOrder((planner_data,), tmp_path / "sft", steps=1, vision=path, **SIZE)
        train_sft(planner, lambda line: None)
        with pytest.raises(ConservatorError, match="no vision tower of this size"):
            train_sft(replace(planner, output=tmp_path / "wide", width=128), lambda line: None)
        with pytest.raises(ConservatorError, match="multiple of 64"):
            train_sft(replace(planner, output=tmp_path / "odd", width=100), lambda line: None)


@pytest.mark.slow
@needs_sft
def test_from_photos_to_a_planner_by_commands(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    PillowImage.fromarray(photos.coffee()).save(folder / "coffee.png")
    for command in (
        ["data", "build", "--photos", folder, "-o", tmp_path / "data", "--count", 1, "--jobs", 1],
        ["train", "sft", "--data", tmp_path / "data", "--steps", 1, "--batch", 2, "-o", tmp_path / "sft"],
        ["restore", folder, "-o", tmp_path / "out", "--policy", f"mllm:{tmp_path / 'sft' / 'model'}"],
    ):
        result = CliRunner().invoke(app, [str(part) for part in command])
        assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "coffee.conservator.json").read_text())
    assert "%" in record["steps"][1]["reason"]
