"""The pictures that the assessor is taught on: parts of damaged and treated studies, and how near each is to the photo.

They cost tools, so they are made once and kept: a file for each start, which an interrupted training does not make
again. Each part of a study is a picture of its own, compared with its own reference: of a reduced overview, noise that
the reduction hides takes nothing away, and of a native crop it does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from conservator.degradations import degrade
from conservator.degradations.patches import UNDAMAGED_PSNR
from conservator.errors import ConservatorError
from conservator.evaluation.quality import treated_states
from conservator.files import replacing
from conservator.image import Image, in_8_bits
from conservator.metrics.fidelity import psnr, ssim
from conservator.perception.study import study
from conservator.photo import load_photo
from conservator.tools.tool import Toolbox
from conservator.training.assessor.order import AssessorOrder
from conservator.training.data.division import assessors_recipe
from conservator.training.data.parts import random_part

VIEWS = 2
"""Native crops of a study beside its overview, as in the policy's training (training/rl/starts.py)."""
_HELD_OUT = 8
"""One photo of so many is held out, as in the training of perception."""
_LEVELS = 5


@dataclass(frozen=True)
class RatedPictures:
    """Pictures on disk with their levels; those of one start lie in one file."""

    files: tuple[Path, ...]
    levels: Tensor
    """(N,): how good each is, 1 to 5."""
    start: Tensor
    """(N,) long: in which file each lies."""
    place: Tensor
    """(N,) long: which of its file it is."""

    def __len__(self) -> int:
        return len(self.levels)

    def picture(self, number: int) -> Image:
        """One picture (1, 3, H, W)."""
        held = torch.load(self.files[int(self.start[number])], weights_only=True, mmap=True)
        found: Tensor = held["pictures"][int(self.place[number])]
        return found[None].float() / 255


def make_pictures(
    order: AssessorOrder, photos: Sequence[Path], toolbox: Toolbox, folder: Path, report: Callable[[str], None]
) -> tuple[RatedPictures, RatedPictures]:
    """Pictures to learn from, and pictures of other photos; what ``folder`` holds is not made again.

    Raises ConservatorError where there are too few photos to hold one out.
    """
    if len(photos) < 2:
        raise ConservatorError(
            f"of these photos {len(photos)} belong to the assessor, the third that no policy learns on; at least 2 are "
            "needed: give a larger folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for tool in toolbox.values():
        tool.setup("cpu")
    files = [folder / f"{start:05d}.pt" for start in range(order.starts)]
    missing = [start for start, file in enumerate(files) if not file.exists()]
    for done, start in enumerate(missing):
        with replacing(files[start]) as file:
            torch.save(_pictures_of(order, photos[start % len(photos)], start, toolbox), file)
        if done % 50 == 49 or done + 1 == len(missing):
            report(f"{order.starts - len(missing) + done + 1} of {order.starts} starts are made and rated")
    training = [file for start, file in enumerate(files) if start % len(photos) % _HELD_OUT]
    held_out = [file for start, file in enumerate(files) if start % len(photos) % _HELD_OUT == 0]
    if not training:
        raise ConservatorError(f"{order.starts} starts are too few; ask for at least 2 (--starts)")
    return rated_pictures(training, training), rated_pictures(held_out, training)


def _pictures_of(order: AssessorOrder, photo: Path, start: int, toolbox: Toolbox) -> dict[str, object]:
    """The parts of all states of one start, 8 bits each (3, H, W), and their scores (N, 2): PSNR up to 50 dB, SSIM."""
    rng = np.random.default_rng([order.seed, start, 61])
    clean = in_8_bits(random_part(load_photo(photo).image, rng))
    recipe = assessors_recipe(rng)
    damaged = in_8_bits(degrade(clean, recipe))
    kinds = frozenset(damage.kind for damage in recipe)
    parts, references = study(damaged, VIEWS), study(clean, VIEWS, like=damaged)
    pictures, scores = list[Tensor](), list[tuple[float, float]]()
    for state, _ in treated_states(parts, kinds, toolbox, rng, order.states):
        for part, reference in zip(in_8_bits(state).split(1), references.split(1), strict=True):
            pictures.append((part[0] * 255).round().to(torch.uint8))
            scores.append((psnr(part, reference, UNDAMAGED_PSNR), ssim(part, reference)))
    return {"pictures": pictures, "scores": torch.tensor(scores)}


def _scores(file: Path) -> Tensor:
    found: Tensor = torch.load(file, weights_only=True, mmap=True)["scores"]
    return found


def rated_pictures(files: Sequence[Path], learned: Sequence[Path]) -> RatedPictures:
    """The pictures in files, with their levels among those in the files that are learned from.

    A file holds ``pictures``, N tensors (3, H, W) of 8 bits, and ``scores`` (N, 2), as ``make_pictures`` writes them.
    """
    scores = [_scores(file) for file in files]
    return RatedPictures(
        tuple(files),
        levels_of(torch.cat([torch.zeros(0, 2), *scores]), torch.cat([_scores(file) for file in learned])),
        torch.cat([torch.full((len(one),), i) for i, one in enumerate(scores)] or [torch.zeros(0)]).long(),
        torch.cat([torch.arange(len(one)) for one in scores] or [torch.zeros(0)]).long(),
    )


def levels_of(scores: Tensor, learned: Tensor) -> Tensor:
    """The levels (N,), 1 to 5, of scores (N, 2) among those that are learned from (M, 2): PSNR and SSIM, weighed alike.

    A level is the share of what is learned from that is no better: no threshold is chosen, all levels are as common.
    PSNR and SSIM are those of the objective "balanced" that need no network. ST-LPIPS is left out on purpose: what is
    not taught can tell later whether the teaching went wrong.
    """
    spread = learned.std(0).clamp(min=1e-9)
    rank = torch.searchsorted((learned / spread).sum(1).sort().values, (scores / spread).sum(1), right=True)
    return 1 + (_LEVELS - 1) * rank / len(learned)


def shares_of(levels: Tensor) -> Tensor:
    """Levels (N,) as shares (N, 5) of the whole levels 1 to 5: each lies between two, which it is the mean of."""
    whole = torch.arange(1, _LEVELS + 1)
    return (1 - (levels[:, None] - whole).abs()).clamp(min=0)
