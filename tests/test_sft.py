"""Teaching vision-language planners, on tiny models: what they are shown, what they learn, and that it goes on."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from planner_lessons import SIZE, TOOLS, observed, questions, tiny_model, write_data
from skimage import data as photos
from typer.testing import CliRunner

from conservator.apps.cli import app
from conservator.degradations import parse_recipe
from conservator.errors import ConservatorError, NameNotFoundError
from conservator.perception.perception import Blind
from conservator.policies import MllmPolicy
from conservator.policies.vision_language import VisionLanguageModel, load_model, shipped_model
from conservator.pool import LocalPool, Pool
from conservator.session import Apply, Decision, Rollback, Session, Stop, run
from conservator.tools import Toolbox, make_toolbox

if find_spec("transformers") is None:
    pytest.skip("needs the extra: pip install 'conservator[mllm]'", allow_module_level=True)

from conservator.training.planner.lessons import left_out, read_lessons, split_by_photo, write_lessons
from conservator.training.planner.orders import SftOrder, VisionOrder
from conservator.training.planner.prefix import IGNORED, shared_prefix_loss
from conservator.training.planner.situations import Situation
from conservator.training.planner.teaching import DIALECT, Collator, is_right, shuffle_lessons

needs_sft = pytest.mark.skipif(find_spec("trl") is None, reason="needs the extra: pip install 'conservator[sft]'")


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


def test_questions_of_as_many_steps_come_together_where_all_are_shown(planner_data: Path) -> None:
    lessons = read_lessons(planner_data) * 6

    def filling(by_steps: bool) -> float:
        order = shuffle_lessons(lessons, 4, np.random.default_rng(0), by_steps)
        assert sorted(order) == list(range(len(lessons)))
        steps = [[len(lessons[i].pictures) for i in order[k : k + 4]] for k in range(0, len(lessons), 4)]
        return sum(max(some) * len(some) - sum(some) for some in steps)

    assert filling(True) < filling(False) / 2


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
    from conservator.training.planner.sft import train_sft

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
    from conservator.training.planner.sft import _lessons

    folders = [tmp_path / "many", tmp_path / "few"]
    for folder, numbers in zip(folders, (range(40), range(26)), strict=True):
        shutil.copytree(planner_data, folder)
        lesson = read_lessons(folder)[0]
        write_lessons(folder, [replace(lesson, photo=f"{n:02}.png") for n in numbers])
    lessons, learned, held_out = _lessons(SftOrder(tuple(folders)))
    assert len(lessons) == 66
    assert {lesson.photo for lesson in held_out} == {"00.png", "24.png"}
    assert {lesson.photo for lesson in split_by_photo(lessons[40:])[1]} == {"00.png", "24.png"}  # of the few alone
    assert not {lesson.photo for lesson in learned} & {lesson.photo for lesson in held_out}


@needs_sft
def test_two_folders_of_questions_are_asked_as_much(taught: Path, planner_data: Path, tmp_path: Path) -> None:
    from conservator.training.planner.sft import train_sft

    few = shutil.copytree(planner_data, tmp_path / "few")
    write_lessons(few, read_lessons(few)[:1])
    said = list[str]()
    order = SftOrder((planner_data, few), tmp_path / "out", str(taught / "model"), steps=1, batch=2)
    trained = train_sft(order, said.append)
    assert "12 questions" in said[0]  # three situations of two each, from either folder
    assert load_model(str(trained.folder)).parameters == load_model(str(taught / "model")).parameters


@needs_sft
def test_adapters_learn_on_a_checkpoint_and_are_loaded_with_it(
    taught: Path, planner_data: Path, tmp_path: Path, toolbox: Toolbox
) -> None:
    from conservator.training.planner.sft import train_sft

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
    from conservator.training.planner.sft import train_sft

    trained = train_sft(SftOrder((planner_data,), tmp_path, str(taught / "model"), steps=2, batch=2), lambda line: None)
    assert load_model(str(trained.folder)).parameters == trained.model.parameters


@needs_sft
def test_the_model_that_ships_is_trained_further(planner_data: Path, tmp_path: Path) -> None:
    from conservator.training.planner.sft import start_of, train_sft

    order = SftOrder(
        (planner_data,), tmp_path / "further", start="nano", encoder="perception", steps=2, batch=2, device="cpu"
    )
    lessons, ships = read_lessons(planner_data), shipped_model()
    begun = start_of(order, lessons)
    batch = Collator(ships, lessons, 0, 0.0)([{"lesson": i, "turn": 0} for i in range(4)])
    with torch.inference_mode():
        before = ships.network(**batch).logits
        assert torch.equal(begun.network(**batch).logits, before)  # the encoder adds nothing yet
    trained = train_sft(order, lambda line: None)
    again = load_model(str(trained.folder))
    assert again.heeds_wishes == ships.heeds_wishes
    assert bool((again.network.model.visual.patch_embed.told.weight != 0).any())
    with torch.inference_mode():
        assert not torch.allclose(again.network(**batch).logits, before)
        assert torch.equal(ships.network(**batch).logits, before)  # no policy's model was trained
    for wrong, flag in (({"width": 128}, "--width"), ({"vision": "nano"}, "--vision")):
        with pytest.raises(ConservatorError, match=f"leave out .*{flag}"):
            train_sft(replace(order, output=tmp_path / "wrong", **wrong))
    with pytest.raises(ConservatorError, match="leave out --start"):
        train_sft(replace(order, output=tmp_path / "wrong", model=str(trained.folder)))
    assert not (tmp_path / "wrong").exists()


@needs_sft
def test_orders_that_cannot_be_are_refused(taught: Path, planner_data: Path, tmp_path: Path) -> None:
    from conservator.training.planner.sft import train_sft

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
    with pytest.raises(ConservatorError, match=r"lessons 1 \w+, now \w+; use"):
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
    from conservator.training.planner.vision import train_vision

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
        from conservator.training.planner.sft import train_sft

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
    PillowImage.fromarray(photos.coffee()[72:328, 150:406]).save(folder / "coffee.png")
    for command in (
        [
            "data",
            "build",
            "--photos",
            folder,
            "-o",
            tmp_path / "data",
            "--count",
            1,
            "--jobs",
            1,
            "--toolbox",
            "experts",
        ],
        ["train", "sft", "--data", tmp_path / "data", "--steps", 1, "--batch", 2, "-o", tmp_path / "sft"],
        ["restore", folder, "-o", tmp_path / "out", "--policy", f"mllm:{tmp_path / 'sft' / 'model'}"],
    ):
        result = CliRunner().invoke(app, [str(part) for part in command])
        assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "coffee.conservator.json").read_text())
    assert "%" in record["steps"][1]["reason"]
