"""Supervised fine-tuning of a vision-language planner with TRL. One file that reads from top to bottom.

    conservator train sft --data FOLDER --model nano

The conversations are rendered and decoded by the code that the policy uses (policies/vision_language.py), not by TRL's:
a model is asked as it was taught, to the token. Needs the extra [sft].
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conservator.claims import Identity, claim
from conservator.errors import ConservatorError
from conservator.extras import import_mllm
from conservator.files import sha256
from conservator.kinds import NO_WISH
from conservator.networks.nano import add_encoder, has_encoder
from conservator.perception.loading import read_perception
from conservator.policies.vision_language import VisionLanguageModel, load_model, shipped_model
from conservator.training.planner.lessons import LESSONS, PlannerLesson, left_out, read_lessons, split_by_photo
from conservator.training.planner.nano import encoder_hash, encoder_named, new_nano
from conservator.training.planner.orders import NANO, DialectName, SftOrder, size_of, torch_device
from conservator.training.planner.prefix import shared_prefix_loss, whole_loss
from conservator.training.planner.teaching import (
    DIALECTS,
    Collator,
    balance_situations,
    examine_planner,
    shuffle_lessons,
)
from conservator.training.run import read_curve, write_curve
from conservator.weights import manifest

_RATES = {"nano": 1e-3, "start": 3e-4, "lora": 1e-4, "full": 1e-5}
"""Learning rates: from nothing, from the model that ships, of adapters, of a whole pretrained model."""
ADAPTED = r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|qkv|attn\.proj|linear_fc1|linear_fc2)"
"""The linear layers of the language model and of the vision tower."""
_LARGE = 100_000_000
"""Parameters from which a model is no nano: activations are computed twice to save memory on a GPU."""


@dataclass(frozen=True)
class TrainedPlanner:
    """A trained model and how it does on held-out questions."""

    model: VisionLanguageModel
    folder: Path
    steps: int
    minutes: float
    scores: dict[str, float]


def train_sft(order: SftOrder, report: Callable[[str], None] = print) -> TrainedPlanner:
    """Train; goes on from the last checkpoint in ``order.output`` where an earlier run with the same order stopped.

    Raises ConservatorError for data or a model that will not do, or for a folder of another order; MissingExtraError
    without the extra [sft].
    """
    import_mllm("trl")
    import_mllm("transformers").utils.logging.disable_progress_bar()
    if order.model == NANO and order.lora:
        raise ConservatorError("a nano model begins with nothing that adapters could adapt; leave out --lora")
    order = replace(order, device=torch_device(order.device))
    lessons, learned, held_out = _lessons(order)
    if not learned:
        raise ConservatorError(f"without {', '.join(order.without)} no question is left to learn from")
    torch.set_flush_denormal(True)
    model = start_of(order, lessons)
    model.heeds_wishes |= any(lesson.wish != NO_WISH for lesson in learned)
    _claim(order)  # only now: an order that cannot begin must not take the folder
    report(f"{model.parameters / 1e6:.1f} million parameters, {len(learned)} questions, {len(held_out)} held out")
    asked = evenly(held_out, order.questions)
    trainer, watch = _trainer(order, model, learned, asked, report)
    last = _last_checkpoint(order.output)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    folder = order.output / "model"
    trained = trainer.accelerator.unwrap_model(trainer.model)
    if order.lora:
        trained.save_pretrained(folder)
        model.save_words(folder)
    else:
        model.save(folder, torch.float16 if model.parameters < _LARGE else torch.bfloat16)
    watch.examine(trainer.state.global_step)
    scores = {name: value for name, value in watch.curve[-1].items() if name.startswith("right")}
    return TrainedPlanner(model, folder, trainer.state.global_step, watch.seconds / 60, scores)


def _lessons(order: SftOrder) -> tuple[list[PlannerLesson], list[PlannerLesson], list[PlannerLesson]]:
    """All questions; those to learn from, of each folder and each situation as many; and those held out."""
    folders = order.data
    parts = [read_lessons(folder) for folder in folders]
    lessons = [*itertools.chain(*parts)]
    if not lessons:
        raise ConservatorError(f"{', '.join(map(str, folders))} holds no questions")
    _, held_out = split_by_photo(lessons)  # of all folders together: what one holds out no other may teach
    unseen = {lesson.photo for lesson in held_out}
    learned = [
        [lesson for lesson in part if lesson.photo not in unseen and not left_out(lesson, order.without)]
        for part in parts
    ]
    learned = [balance_situations(part) for part in learned if part]
    most = max((len(part) for part in learned), default=0)
    evened = [lesson for part in learned for lesson in itertools.islice(itertools.cycle(part), most)]
    return lessons, evened, held_out


def start_of(order: SftOrder, lessons: Sequence[PlannerLesson]) -> VisionLanguageModel:
    """The model to begin with."""
    if order.model != NANO:
        if order.start is not None:
            raise ConservatorError(f"{order.model} is what this training begins with; leave out --start")
        if order.vision is not None:
            raise ConservatorError("only a nano model takes a vision tower of its own; leave out --vision")
        if size_of(order):
            raise ConservatorError(f"{order.model} has a size of its own; leave out --width and --layers")
        if order.encoder is not None:
            raise ConservatorError(f"{order.model} has a vision tower of its own; leave out --encoder")
        model = load_model.__wrapped__(order.model, order.device)  # one of its own: no policy's may be trained
        model.beginnings = None  # its weights change from step to step
        if not order.lora:
            model.network.float().requires_grad_(True)
        return model
    if order.start is not None:
        return _go_on(order)
    model = new_nano(texts_of(lessons, order.dialect), order.seed, encoder_named(order.encoder), **size_of(order))
    if order.vision is not None:
        try:
            model.network.model.visual.load_state_dict(_vision(order.vision))
        except RuntimeError:
            size = "the same --width and --layers" if size_of(order) else "the usual --width and --layers"
            with_encoder = f" and --encoder {order.encoder}" if order.encoder else ", without --encoder"
            raise ConservatorError(
                f"{order.vision} is no vision tower of this size; train one with {size}{with_encoder}"
            ) from None
    model.network.to(order.device)
    return model


def _go_on(order: SftOrder) -> VisionLanguageModel:
    """The model that ships, to be trained further; an encoder that it had not is added so that it changes nothing."""
    if order.vision is not None or size_of(order):
        raise ConservatorError("the model that ships has a vision tower and a size; leave out --vision and --width")
    model = shipped_model.__wrapped__(NANO)  # one of its own: no policy's may be trained
    model.beginnings = None  # its weights change from step to step
    if order.encoder is not None:
        if has_encoder(model.network.config):
            raise ConservatorError("the model that ships has an encoder; leave out --encoder")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(order.seed)
            add_encoder(model.network, read_perception(order.encoder).encoder(), silent=True)
    model.network.float().requires_grad_(True).to(order.device)
    return model


def _vision(named: str) -> Mapping[str, torch.Tensor]:
    """The tensors of a vision tower: of the nano model that ships, by its name, or of a file."""
    if named == NANO:
        shipped: Mapping[str, torch.Tensor] = shipped_model(NANO).network.model.visual.state_dict()
        return shipped
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(named)
    except (OSError, SafetensorError) as error:
        raise ConservatorError(
            f"{named} cannot be read as a vision tower ({error}); "
            f"give vision.safetensors of train nano-vision, or {NANO}"
        ) from error


def texts_of(lessons: Sequence[PlannerLesson], dialect: DialectName = "plan") -> list[str]:
    """All that is said in these lessons, to learn a vocabulary from."""
    spoken = DIALECTS[dialect]
    texts = []
    for lesson in lessons:
        asked = spoken.ask(lesson.observation, lesson.objective, lesson.gains, lesson.wish)
        functions = spoken.functions(lesson.observation)
        texts += [*(message.text for message in asked), *map(json.dumps, functions), spoken.write(lesson.answer)]
    return texts


def _claim(order: SftOrder) -> None:
    """Make the folder this order's, or raise when it is another's. Lessons, and what it starts from, by content."""
    names = ("dialect", "spread", "lora", "rank", "batch", "gather", "rate", "studies", "words", "width", "layers")
    settings = {name: getattr(order, name) for name in (*names, "without", "seed")}
    lessons = {f"lessons {number}": sha256(folder / LESSONS) for number, folder in enumerate(order.data, 1)}
    weights = {path.name: sha256(path) for path in sorted(Path(order.model).glob("*.safetensors"))}
    settings |= lessons if weights else lessons | {"model": order.model}
    if order.vision is not None:
        weights["vision"] = str(manifest()[NANO]["sha256"]) if order.vision == NANO else sha256(Path(order.vision))
    if order.start is not None:
        weights["start"] = str(manifest()[order.start]["sha256"])
    weights |= encoder_hash(order.encoder)
    claim(order.output, Identity.of(settings, weights=weights))


def _last_checkpoint(output: Path) -> Path | None:
    # written last, so that one without it was cut off
    folders = (path.parent for path in (output / "checkpoints").glob("checkpoint-*/trainer_state.json") if _whole(path))
    return max(folders, key=lambda path: int(path.name.split("-")[1]), default=None)


def _whole(path: Path) -> bool:
    try:
        json.loads(path.read_text("utf-8"))
    except ValueError:
        return False
    return True


def evenly(lessons: Sequence[PlannerLesson], count: int) -> list[PlannerLesson]:
    """So many of the lessons, or all, spread evenly over them."""
    places = np.linspace(0, len(lessons) - 1, min(count, len(lessons))).round().astype(int)
    return [lessons[place] for place in places]


def _trainer(
    order: SftOrder,
    model: VisionLanguageModel,
    lessons: Sequence[PlannerLesson],
    asked: Sequence[PlannerLesson],
    report: Callable[[str], None],
) -> tuple[Any, _Watch]:
    """TRL's trainer, and what watches it."""
    steps = order.steps or max(1, round(order.epochs * len(lessons) / (order.batch * order.gather)))
    share = order.words if order.words is not None else (2 / 3 if _kind(order) == NANO else 0.0)
    in_words = round(share * steps)
    watch = _Watch(order, model, asked, in_words, report)
    adapters = None
    if order.lora:
        peft = import_mllm("peft")
        adapters = peft.LoraConfig(r=order.rank, lora_alpha=2 * order.rank, lora_dropout=0.05, target_modules=ADAPTED)
    small = model.parameters < _LARGE and model.network.config.model_type == "qwen3_vl"
    dialect, spread = DIALECTS[order.dialect], order.spread
    loss = shared_prefix_loss if small and not order.lora else whole_loss if spread else None
    trainer = _trainer_class(loss)(
        model=model.network,
        args=_arguments(order, steps, model.parameters),
        train_dataset=_rows(order, lessons, steps, in_words),
        processing_class=model.tokenizer,
        data_collator=Collator(model, lessons, order.seed, order.studies, dialect, spread),
        peft_config=adapters,
        callbacks=[_callback(watch)],
    )
    trainer.remove_callback(import_mllm("transformers").PrinterCallback)  # the watch reports
    return trainer, watch


def _trainer_class(loss: Callable[..., torch.Tensor] | None) -> Any:
    """TRL's SFTTrainer, or one with a loss of ours: one that computes common beginnings once, or of several answers."""
    if loss is None:
        return import_mllm("trl").SFTTrainer
    found = loss

    class Trainer(import_mllm("trl").SFTTrainer):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            assert not return_outputs
            with self.accelerator.autocast():
                return found(model, inputs, num_items_in_batch)

    return Trainer


def _rows(order: SftOrder, lessons: Sequence[PlannerLesson], steps: int, in_words: int) -> Any:
    """Which question is when asked, for longer than this run: a run with more steps then goes on in the same order."""
    count = steps * order.batch * order.gather
    turns = -(-count // len(lessons))
    numbers = np.concatenate(
        [
            shuffle_lessons(lessons, order.batch, np.random.default_rng([order.seed, turn]), order.dialect == "tools")
            for turn in range(turns)
        ]
    )[:count]
    turn = np.repeat(np.arange(turns), len(lessons))[:count]
    words = np.arange(count) < in_words * order.batch * order.gather
    columns = {"lesson": numbers, "turn": turn, "words": words}
    return import_mllm("datasets").Dataset.from_dict({name: values.tolist() for name, values in columns.items()})


def _kind(order: SftOrder) -> str:
    """What the usual rate and share of words depend on: how the training begins."""
    if order.model == NANO:
        return "start" if order.start else NANO
    return "lora" if order.lora else "full"


def _arguments(order: SftOrder, steps: int, parameters: int) -> Any:
    """TRL's settings. The questions come in the order of the rows, each row once."""
    on_cpu = order.device == "cpu"
    return import_mllm("trl").SFTConfig(
        output_dir=str(order.output / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=order.batch,
        gradient_accumulation_steps=order.gather,
        learning_rate=order.rate or _RATES[_kind(order)],
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 30),
        weight_decay=0.05,
        max_grad_norm=1.0,
        use_cpu=on_cpu,
        bf16=order.bfloat16 or not on_cpu,
        activation_checkpointing=not on_cpu and parameters > _LARGE,
        save_strategy="steps",
        save_steps=order.every,
        save_total_limit=2,
        logging_steps=max(1, min(10, order.every // 5)),
        dataloader_num_workers=order.workers,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        report_to="none",
        disable_tqdm=True,
        seed=order.seed,
        data_seed=order.seed,
    )


class _Watch:
    """Keeps the time, the curve and the examinations of a run."""

    def __init__(
        self,
        order: SftOrder,
        model: VisionLanguageModel,
        asked: Sequence[PlannerLesson],
        in_words: int,
        report: Callable[[str], None],
    ) -> None:
        """``in_words``: the steps, the first ones, in words alone."""
        self._order, self._model, self._asked, self._in_words, self._report = order, model, asked, in_words, report
        self._begun = time.monotonic()
        self.curve = read_curve(order.output)
        self._before = self.curve[-1]["minutes"] * 60 if self.curve else 0.0
        self._losses: list[float] = []

    @property
    def seconds(self) -> float:
        """Of training, earlier runs included."""
        return self._before + time.monotonic() - self._begun

    @property
    def late(self) -> bool:
        """Whether the minutes are over."""
        minutes = self._order.minutes
        return minutes is not None and time.monotonic() - self._begun > 60 * minutes

    def log(self, loss: float) -> None:
        """Note a loss."""
        self._losses.append(loss)

    def examine(self, step: int) -> None:
        """Ask held-out questions and write the curve, unless that was done at this step."""
        self.curve = [row for row in self.curve if row["step"] < step or (row["step"] == step and not self._losses)]
        if self.curve and self.curve[-1]["step"] == step:
            return
        loss = sum(self._losses) / len(self._losses) if self._losses else math.nan
        scores = examine_planner(
            self._model, self._asked, step <= self._in_words, self._order.without, DIALECTS[self._order.dialect]
        )
        self.curve.append({"step": step, "minutes": self.seconds / 60, "loss": loss, **scores})
        self._losses = []
        write_curve(self._order.output, self.curve)
        shares = ", ".join(f"{k} {v:.2f}" for k, v in scores.items() if not math.isnan(v))
        self._report(f"step {step}: loss {loss:.3f}{', held out: ' + shares if shares else ''}")


def _callback(watch: _Watch) -> Any:
    """Tells the watch what TRL's trainer does, and the trainer when the time is over."""

    class Callback(import_mllm("transformers").TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                watch.log(float(logs["loss"]))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if watch.late:
                control.should_save = control.should_training_stop = True

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            watch.examine(state.global_step)

    return Callback()
