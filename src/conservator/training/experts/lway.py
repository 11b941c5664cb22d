"""Train LWay's degradation transfer: one part of a photo degraded, and another part to be degraded in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from conservator.adapting import Manner
from conservator.commands import command_line
from conservator.degradations import (
    AreaReduction,
    DefocusBlur,
    GaussianBlur,
    JpegCompression,
    LineBlur,
    LowResolution,
    Recipe,
    degrade,
)
from conservator.errors import ConservatorError, PhotoError
from conservator.image import Image, in_8_bits
from conservator.networks.lway import DegradationTransfer, answer, lesson
from conservator.networks.store import NetworkStore
from conservator.photo import find_photos, load_photo
from conservator.resample import bicubic_to
from conservator.tools.catalog import make_toolbox
from conservator.tools.degraded import Degraded, load_transfer, look_at, shows_too_little
from conservator.tools.experts import Expert
from conservator.tools.lway import adapt
from conservator.tools.user import added_as
from conservator.training.data import makes
from conservator.training.data.crops import Photos, kernel_of, random_crop, training_data, validation_set_of
from conservator.training.experts.order import CollectionOrder, TransferOrder
from conservator.training.experts.orders import check_name, in_half, training_scores, write_expert
from conservator.training.experts.train import Budget, Trained, never, train_network
from conservator.training.run import Belongs, ship_weights

_SIDES = {2: 64, 4: 48}
"""Pixels of a small crop that is made again, by how many times smaller it is than its picture."""
_BORDER = 16
"""Pixels around a small crop that are degraded with it and cut off: JPEG's blocks are as long."""
NAME = "lway"
_BATCH = 8
_EPSILON = 3e-6
"""Mean square error (55 dB) below which an improvement counts no more: about that of rounding to 8 bits."""


@dataclass(frozen=True)
class Transfers(Dataset[tuple[Tensor, Image]]):
    """Item ``step`` is the batch of that step: what ``DegradationTransfer`` takes, and what it is to give.

    The photo that shows the degradation is another part of the same photo, degraded in the same way, or the very photo
    that is wanted, as it is when a photo is enlarged. Every third batch is of pictures four times as large, the others
    of pictures twice as large.
    """

    photos: Sequence[Sequence[NDArray[np.uint8]]]
    batch: int
    seed: int
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Image]:
        scale = 4 if step % 3 == 2 else 2
        pairs = [self.pair(np.random.default_rng([self.seed, step, i]), scale) for i in range(self.batch)]
        given, wanted = (torch.cat(images) for images in zip(*pairs, strict=True))
        return given, wanted

    def pair(self, rng: np.random.Generator, scale: int = 2) -> tuple[Tensor, Image]:
        """What is given and wanted for one picture: ``lesson`` and ``answer`` of it."""
        side, around = _SIDES[scale], 2 * _BORDER
        pyramid = self.photos[int(rng.integers(len(self.photos)))]
        level = pyramid[int(rng.integers(len(pyramid)))]
        if min(level.shape[:2]) < (2 * side + around) * scale:
            level = pyramid[0]
        blur, rest = degradation(rng, scale)
        shows = random_crop([level], (2 * side + around) * scale, rng)
        reduced = degrade(shows, (*blur, rest[0]))
        shown = in_8_bits(degrade(reduced, rest[1:]))
        if rng.random() < 0.5:
            picture = _middle(shows, (side + around) * scale)
            small = _middle(shown, side)
        else:
            picture = random_crop([level], (side + around) * scale, rng)
            small = _middle(in_8_bits(degrade(picture, (*blur, *rest))), side)
        told = spread(blur, scale), _middle(shown - reduced, 2 * side).std((2, 3))
        return lesson(_middle(shown, 2 * side), _middle(picture, side * scale)), answer(small, *told)


def degradation(rng: np.random.Generator, scale: int) -> tuple[Recipe, Recipe]:
    """What a photo went through that is to be enlarged by ``scale``: blur; then reduction, noise and JPEG.

    One time in six nothing but the bicubic reduction, as the upscalers were trained. The chances of noise and JPEG are
    those of LWay's own training (the authors' issue 4).
    """
    if rng.random() < 1 / 6:
        return (), (LowResolution(scale),)
    blur = _softness(rng, scale) if rng.random() < 0.85 else ()
    reduction: Recipe = (AreaReduction(scale),) if rng.random() < 0.15 else (LowResolution(scale),)
    noise = makes.sensor_noise(rng, 0.5, 15) if rng.random() < 0.5 else ()
    jpeg = (JpegCompression(int(rng.integers(40, 100)), makes.subsampling(rng)),) if rng.random() < 0.5 else ()
    return blur, (*reduction, *noise, *jpeg)


def _softness(rng: np.random.Generator, scale: int) -> Recipe:
    """A blur before the reduction: alike in all directions, a disk (both of up to 1.8 small pixels of deviation), or
    drawn out along a line of up to 4."""
    make, sigma = rng.random(), scale * rng.uniform(0.15, 1.8)
    if make < 0.5:
        return (GaussianBlur(sigma),)
    if make < 0.65:
        return (DefocusBlur(2 * sigma, rng.uniform(0.1, 0.6)),)  # a disk's deviation is half its radius
    length = scale * rng.uniform(0.5, 4)
    return (LineBlur(length, rng.uniform(-90, 90), 0.0), GaussianBlur(scale * rng.uniform(0.15, 0.9)))


def spread(blur: Recipe, scale: int) -> Tensor:
    """The numbers (1, 3) of a blur before a reduction, as the reconstructor tells them."""
    reach = 14 * scale  # beyond which no kernel of _softness goes
    kernel = kernel_of(blur, reach).double().numpy()
    x = (np.arange(len(kernel)) - len(kernel) // 2) / scale
    x, y = np.meshgrid(x, x)
    xx, yy, xy = (float((kernel * moment).sum()) for moment in (x * x, y * y, x * y))
    values, vectors = np.linalg.eigh([[xx, xy], [xy, yy]])
    root = vectors @ np.diag(np.sqrt(values.clip(0))) @ vectors.T
    return torch.tensor([[root[0, 0], root[1, 1], root[0, 1]]], dtype=torch.float32)


def _middle(image: Image, side: int) -> Image:
    top, left = ((n - side) // 2 for n in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


def train_transfer(
    order: TransferOrder,
    report: Callable[[str], None] = print,
    stop: Callable[[], bool] = never,
) -> Trained:
    """Train the degradation transfer; resumes where an earlier run with the same folder stopped.

    Its PSNR is that of the photos made again, and of the numbers of blur and noise beside them, as ``answer`` has them.
    """
    torch.set_flush_denormal(True)
    photos, budget = (
        Photos(order.photos),
        Budget(steps=order.steps, batch=_BATCH, seed=order.seed, workers=order.workers),
    )
    report(f"lway: {len(photos.training)} photos to learn from, {len(photos.held_out)} held out")
    batches, unseen = (
        Transfers(pyramids, budget.batch, budget.seed, budget.steps) for pyramids in (photos.training, photos.held_out)
    )
    lessons, answers = validation_set_of(unseen.pair, budget.seed, 64)
    reduced = bicubic_to(F.pixel_shuffle(lessons[:, -12:], 2), *answers.shape[-2:])
    torch.manual_seed(order.seed)
    return train_network(
        DegradationTransfer(),
        batches,
        (lessons, answers),
        order.output / NAME,
        budget,
        untreated=answer(reduced, *torch.zeros(2, len(reduced), 3)),
        epsilon=_EPSILON,
        belongs=Belongs({"photos": photos.digest, "network": NAME}),
        stop=stop,
        report=report,
    )


def ship_transfer(trained: Trained, order: TransferOrder, folder: Path) -> Path:
    """Write the weights in half precision into ``folder``, with their entry in its manifest; return the file."""
    given = {"photos": order.photos, "steps": trained.steps, "seed": order.seed}
    return ship_weights(
        folder,
        NAME,
        in_half(trained.network.state_dict()),
        data=training_data(order.photos),
        recipe="docs/lway.md",
        command=command_line("train", NAME, settings=given),
        scores=training_scores(trained),
        made_with={},
        seed=order.seed,
    )


def adapt_to_collection(order: CollectionOrder, folder: Path, report: Callable[[str], None] = print) -> Path:
    """Adapt an upscaler to photos of one origin, and make it a tool of the user's in ``folder``; return its record.

    Photos that cannot be read, or that show no blur, are reported and left out. Raises ConservatorError for a tool that
    cannot be adapted, a name that is taken, and where nothing was won.
    """
    tools = make_toolbox("conservator+user")
    fitting = {name: one for name, one in tools.items() if isinstance(one, Expert) and one.spec.scale > 1}
    if order.tool not in fitting:
        raise ConservatorError(f"{order.tool} is no upscaler that can be adapted; choose from {', '.join(fitting)}")
    tool = fitting[order.tool]
    check_name(order.name)
    if added_as(order.name) is not None:
        raise ConservatorError(
            f"there is a tool {order.name} of yours already; choose another name, or remove it first"
        )
    paths = find_photos(order.photos)
    if not paths:
        raise ConservatorError(f"{order.photos} holds no photos; give a folder of photos")
    rng, networks = np.random.default_rng(order.seed), NetworkStore()
    chosen = sorted(rng.permutation(len(paths))[: order.most].tolist())
    network, transfer = tool.network(networks, "cpu"), load_transfer(networks, "cpu")
    found = [_looked_at(paths[i], transfer, report) for i in chosen]
    degraded = [one for one in found if one is not None]
    if not degraded:
        raise ConservatorError(f"no photo of {order.photos} shows a blur that {order.tool} could be adapted to")
    adapted = adapt(
        network,
        tool.spec.scale,
        degraded,
        transfer,
        Manner(iterations=order.iterations),
        order.seed,
        lambda done: report(f"iteration {done} of {order.iterations}") if done % 20 == 0 else None,
    )
    fell = f"{adapted.before:.2f} -> {adapted.after:.2f} levels squared"
    told = f"error of photos made again {fell}, in {adapted.iterations} iterations"
    if not adapted.won:
        raise ConservatorError(f"nothing was won by adapting {order.tool} ({told}); keep it as it is")
    report(told)
    description = f"{tool.spec.description.removesuffix('.')}, adapted by LWay to {len(degraded)} photos of one origin."
    return write_expert(adapted.network, order.name, tool.spec.removes, tool.network_name, description, folder)


def _looked_at(path: Path, transfer: DegradationTransfer, report: Callable[[str], None]) -> Degraded | None:
    """How a photo was degraded; None where it is left out, which is reported."""
    try:
        photo = load_photo(path).working_image()
    except PhotoError as error:
        report(f"{path.name}: left out, {error}")
        return None
    if why := shows_too_little(photo):
        report(f"{path.name}: left out, {why}")
        return None
    one = look_at(photo, transfer)
    told = f"blur of {one.blur:.2f} pixels, noise of {255 * float(one.noise.mean()):.1f} levels"
    report(f"{path.name}: {told}{f'; left out, {one.left_alone}' if one.left_alone else ''}")
    return None if one.left_alone else one
