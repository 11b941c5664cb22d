"""Teach a nano vision-language model to answer "The quality of the image is" by one of five words.

    conservator train assessor --photos FOLDER

It is asked as any other model is (``QualityRater`` in training/rl/feedback.py), so that everything runs without a
download. What it is taught on belongs to no policy (training/data/division.py). That the word of a level is learned as
shares of two neighbouring levels is DeQA-Score's way (You et al., CVPR 2025, arXiv 2501.11561), in a simpler form.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from conservator.claims import Identity, claim
from conservator.evaluation.rows import content_of
from conservator.image import Image
from conservator.photo import find_photos
from conservator.policies.dialects import Message
from conservator.policies.reading import inputs_of
from conservator.policies.vision_language import VisionLanguageModel
from conservator.tools import make_toolbox
from conservator.training.assessor.order import AssessorOrder
from conservator.training.assessor.pictures import RatedPictures, make_pictures, shares_of
from conservator.training.data.division import divide_photos
from conservator.training.planner.nano import encoder_hash, encoder_named, new_nano
from conservator.training.planner.orders import size_of, torch_device
from conservator.training.rl.feedback import ANSWER, QUESTION, RATED_LEVELS
from conservator.training.run import load_checkpoint, save_checkpoint, warm_rate, write_curve

MODEL_FOLDER = "model"
"""The trained model, in the folder of its training."""
_SHOWN = 256
"""Pictures of held-out photos at most that it is measured on."""
_PART = 160
"""Pixels a side of the part of a picture that a step shows: a third of the tokens of a study's view, and a fifth of
those of a small photo that is its own study. Levels were measured on the whole."""
_OF_THIS_MACHINE = ("photos", "output", "device", "every")
"""Fields of an order that make no other model: of photos their content counts."""
_WORTH = tuple(RATED_LEVELS.values())


@dataclass(frozen=True)
class TrainedAssessor:
    """Where the model lies, and how it agrees with the levels of pictures of held-out photos."""

    folder: Path
    scores: Mapping[str, float]


def train_assessor(order: AssessorOrder, report: Callable[[str], None] = print) -> TrainedAssessor:
    """Train an assessor as ordered; the same order again goes on where it stopped.

    Raises ConservatorError for a folder of another order, for photos that are too few, and for a width that heads
    cannot share.
    """
    all_photos = find_photos(order.photos)
    photos = divide_photos(all_photos, order.photos, order.output).assessor
    toolbox = make_toolbox(order.toolbox)
    content = content_of(photos, order.photos, toolbox, order.toolbox, order.output)
    used = {name: sha for name, sha in content.weights.items() if name in toolbox or "." in name}
    used |= encoder_hash(order.encoder)
    settings = {name: value for name, value in asdict(order).items() if name not in _OF_THIS_MACHINE}
    identity = Identity.of(settings, photos=content.photos, tools=content.tools, weights=used)
    claim(order.output, identity)
    report(f"{len(photos)} of {len(all_photos)} photos belong to the assessor")
    training, held_out = make_pictures(order, photos, toolbox, order.output / "pictures", report)
    return teach_assessor(order, training, held_out, identity, report)


def teach_assessor(
    order: AssessorOrder,
    training: RatedPictures,
    held_out: RatedPictures,
    identity: Identity,
    report: Callable[[str], None] = print,
) -> TrainedAssessor:
    """Teach a fresh model these pictures; goes on from ``order.output`` where a run of this identity stopped."""
    order.output.mkdir(parents=True, exist_ok=True)
    run = _Run(order, training, held_out, identity)
    run.load()
    while run.step < order.steps:
        run.segment(min(order.steps, run.step + order.every))
        report(run.save())
    run.model.network.eval()
    folder = order.output / MODEL_FOLDER
    run.model.save(folder)
    return TrainedAssessor(folder, run.curve[-1])


def new_assessor(order: AssessorOrder) -> VisionLanguageModel:
    """A nano model that knows the words of the question and of the levels, and has learned nothing."""
    words = 3 * [QUESTION, ANSWER, *(f" {level}" for level in RATED_LEVELS)]  # met more than once, each is one token
    return new_nano(words, order.seed, encoder_named(order.encoder), **size_of(order))


def level_logits(model: VisionLanguageModel, pictures: Sequence[Image]) -> tuple[Tensor, Tensor]:
    """What may follow "The quality of the image is", of each picture (1, 3, H, W).

    Logits (B, V) of all tokens, and which of these (5,) are the levels, in the order of RATED_LEVELS.
    """
    replies = [model.tokens(ANSWER) + model.tokens(f" {level}") for level in RATED_LEVELS]
    beginning = replies[0][:-1]
    assert all(reply[:-1] == beginning for reply in replies), "the words of the levels are one token each"
    prompts = [model.prompt([Message("user", QUESTION, (picture,))]) for picture in pictures]
    prompts = [replace(one, ids=torch.cat([one.ids, torch.tensor(beginning)])) for one in prompts]
    batch = inputs_of(model, prompts, next(model.network.parameters()).device)
    states = model.network.model(**batch).last_hidden_state
    last = batch["attention_mask"].sum(1) - 1
    logits: Tensor = model.network.lm_head(states[torch.arange(len(last), device=last.device), last])
    return logits, torch.tensor([reply[-1] for reply in replies], device=logits.device)


@torch.no_grad()
def expected_levels(model: VisionLanguageModel, pictures: Sequence[Image]) -> Tensor:
    """What the levels are worth by their probabilities, 1 to 5, of each picture, (B,)."""
    logits, levels = level_logits(model, pictures)
    return logits[:, levels].float().softmax(1).cpu() @ torch.tensor(_WORTH)


def measure_assessor(model: VisionLanguageModel, rated: RatedPictures, batch: int) -> dict[str, float]:
    """Rank correlation of the expected level with the right one, and the mean error in levels; NaN without pictures."""
    numbers = np.linspace(0, len(rated) - 1, min(_SHOWN, len(rated))).round().astype(int).tolist()
    if len(numbers) < 2:
        return {"spearman": float("nan"), "level_error": float("nan")}
    was = model.network.training
    model.network.eval()
    parts = [numbers[i : i + batch] for i in range(0, len(numbers), batch)]
    found = torch.cat([expected_levels(model, [rated.picture(i) for i in part]) for part in parts])
    model.network.train(was)
    right = rated.levels[numbers]
    return {
        "spearman": float(spearmanr(found, right).statistic),
        "level_error": float((found - right).abs().mean()),
    }


def _part_of(picture: Image, rng: np.random.Generator) -> Image:
    """A part of a picture, mirrored or upside down: about as good as the whole, and much cheaper to look at."""
    top, left = (int(rng.integers(max(0, n - _PART) + 1)) for n in picture.shape[-2:])
    part = picture[..., top : top + _PART, left : left + _PART]
    dims = [dim for dim in (-2, -1) if rng.random() < 0.5]
    return part.flip(dims) if dims else part


class _Run:
    """Model, optimiser and progress of one training."""

    def __init__(
        self, order: AssessorOrder, training: RatedPictures, held_out: RatedPictures, identity: Identity
    ) -> None:
        torch.set_flush_denormal(True)
        self.order, self.training, self.held_out, self.identity = order, training, held_out, identity
        self.device = torch_device(order.device)
        self.model = new_assessor(order)
        self.model.network.to(self.device).train()
        self.optimizer = torch.optim.AdamW(self.model.network.parameters(), lr=order.rate, weight_decay=0.05)
        self.shares = shares_of(training.levels).flip(1)  # RATED_LEVELS begins with the best
        self.step, self.seconds, self.curve, self.loss = 0, 0.0, list[dict[str, float]](), float("nan")

    def segment(self, end: int) -> None:
        """Train until step ``end``; what a step draws depends on the seed and on its number alone."""
        begun, losses = time.monotonic(), list[float]()
        while self.step < end:
            rng = np.random.default_rng([self.order.seed, self.step, 67])
            numbers = rng.integers(len(self.training), size=self.order.batch).tolist()
            pictures = [_part_of(self.training.picture(i), rng) for i in numbers]
            for group in self.optimizer.param_groups:
                group["lr"] = warm_rate(self.order.rate, self.step, self.order.steps)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.device != "cpu"):
                logits, levels = level_logits(self.model, pictures)
            chances = logits.float().log_softmax(1)[:, levels]
            loss = -(self.shares[numbers].to(self.device) * chances).sum(1).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.network.parameters(), 1.0)
            self.optimizer.step()
            losses.append(float(loss.detach()))
            self.step += 1
        self.seconds += time.monotonic() - begun
        self.loss = sum(losses) / len(losses)

    def save(self) -> str:
        """Measure it, and write the checkpoint and the curve; the line to tell."""
        scores = measure_assessor(self.model, self.held_out, self.order.batch)
        self.curve.append({"step": self.step, "minutes": self.seconds / 60, "loss": self.loss, **scores})
        state: dict[str, Any] = {
            "network": self.model.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": {"step": self.step, "seconds": self.seconds},
            "curve": self.curve,
        }
        save_checkpoint(self.order.output, state, self.identity)
        write_curve(self.order.output, self.curve)
        told = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        return f"step {self.step}: loss {self.loss:.3f}, {told}"

    def load(self) -> None:
        """Go on where ``save`` stopped, if it ever did."""
        state = load_checkpoint(self.order.output, self.identity, self.device)
        if state is None:
            return
        self.model.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["progress"]["step"], state["progress"]["seconds"]
        self.curve = state["curve"]
