"""The cases of a benchmark: which pictures are damaged how. Seed, combination and a photo's place fix every pixel.

Damaged pictures are what a file of 8 bits holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conservator.degradations import MIO_GROUPS, RESTOREAGENT_COMBINATIONS, Kind, Recipe, degrade, mio_recipe
from conservator.degradations.protocols import Combination
from conservator.errors import ConservatorError, name_not_found
from conservator.image import Image, in_8_bits
from conservator.photo import find_photos, load_photo


@dataclass(frozen=True)
class Case:
    """One picture to restore: made when it is asked for, so that a resumed run skips it at no cost."""

    group: str
    combination: str
    photo: str
    make: Callable[[], tuple[Image, Image | None]]
    """The damaged image, and the undamaged one where there is one."""
    kinds: frozenset[Kind] | None = None
    """What is wrong with it; None where nobody knows."""
    referenced: bool = True
    """Whether there is an undamaged image."""

    @property
    def name(self) -> str:
        """Unique in its benchmark."""
        return f"{self.group}/{self.combination}/{self.photo}"


def _named(folder: Path, limit: int | None) -> dict[str, Path]:
    """The photos by name: that of the file, or the path below the folder where two files share it."""
    paths = find_photos(folder)[:limit]
    shared = Counter(path.stem for path in paths)
    return {path.stem if shared[path.stem] == 1 else path.relative_to(folder).as_posix(): path for path in paths}


def mio_cases(folder: Path, seed: int, limit: int | None = None) -> Iterator[Case]:
    """AgenticIR's 16 combinations in groups A, B and C, its test ranges, haze by a made-up depth."""
    for g, (group, combinations) in enumerate(MIO_GROUPS.items()):
        yield from _combinations(group, combinations, folder, limit, (seed, g))


def restoreagent_cases(folder: Path, seed: int, limit: int | None = None) -> Iterator[Case]:
    """RestoreAgent's seven combinations with the ranges of the MiO protocol, for its own were not published."""
    return _combinations("restoreagent", RESTOREAGENT_COMBINATIONS, folder, limit, (seed, len(MIO_GROUPS)))


def _combinations(
    group: str, combinations: Sequence[Combination], folder: Path, limit: int | None, seed: tuple[int, ...]
) -> Iterator[Case]:
    for c, combination in enumerate(combinations):
        label = "+".join(kind.label for kind in combination)
        for p, (name, path) in enumerate(_named(folder, limit).items()):
            make = _damaged(path, combination, (*seed, c, p))
            yield Case(group, label, name, make, frozenset(combination))


def _damaged(path: Path, combination: Combination, seed: tuple[int, ...]) -> Callable[[], tuple[Image, Image | None]]:
    def make() -> tuple[Image, Image | None]:
        recipe: Recipe = mio_recipe(combination, np.random.default_rng(seed))
        clean = load_photo(path).image
        return in_8_bits(degrade(clean, recipe)), clean

    return make


def clean_cases(folder: Path, seed: int, limit: int | None = None) -> Iterator[Case]:
    """Photos that need nothing: whatever is done to them is harm."""
    for name, path in _named(folder, limit).items():
        yield Case("clean", "clean", name, _itself(path), frozenset())


def _itself(path: Path) -> Callable[[], tuple[Image, Image | None]]:
    def make() -> tuple[Image, Image | None]:
        image = load_photo(path).image
        return image, image

    return make


def pairs_cases(folder: Path, seed: int, limit: int | None = None) -> Iterator[Case]:
    """Photos that were really damaged: two subfolders, input (or noisy, hazy) and target (or GT, label).

    The first by name in one belongs to the first by name in the other, which may be larger by a whole factor.
    """
    damaged = _subfolder(folder, ("input", "noisy", "hazy", "damaged"))
    undamaged = _subfolder(folder, ("target", "GT", "label", "clean"))
    inputs, targets = _named(damaged, None), find_photos(undamaged)
    if len(inputs) != len(targets):
        raise ConservatorError(f"{damaged} holds {len(inputs)} photos and {undamaged} {len(targets)}, expected as many")
    for (name, path), target in list(zip(inputs.items(), targets, strict=True))[:limit]:
        yield Case("pairs", folder.name, name, _both(path, target))


def _subfolder(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise ConservatorError(f"{folder} has no subfolder {' or '.join(names)}")


def _both(damaged: Path, undamaged: Path) -> Callable[[], tuple[Image, Image | None]]:
    def make() -> tuple[Image, Image | None]:
        pair = load_photo(damaged).image, load_photo(undamaged).image
        (height, width), (whole_height, whole_width) = (image.shape[-2:] for image in pair)
        factor = max(1, whole_width // width)  # the damaged photo may have been reduced
        if (whole_height, whole_width) != (factor * height, factor * width):
            sizes = f"{width}x{height} and {whole_width}x{whole_height} pixels"
            raise ConservatorError(
                f"{damaged} and {undamaged} have {sizes}, expected as many, or a multiple; what is measured is kept"
            )
        return pair

    return make


def real_cases(folder: Path, seed: int, limit: int | None = None) -> Iterator[Case]:
    """Photos that were really damaged, without a reference."""
    for name, path in _named(folder, limit).items():
        yield Case("real", folder.name, name, _alone(path), referenced=False)


def _alone(path: Path) -> Callable[[], tuple[Image, Image | None]]:
    return lambda: (load_photo(path).image, None)


BENCHMARKS: Mapping[str, Callable[[Path, int, int | None], Iterator[Case]]] = {
    "mio": mio_cases,
    "restoreagent": restoreagent_cases,
    "clean": clean_cases,
    "pairs": pairs_cases,
    "real": real_cases,
}
"""(folder, seed, at most so many photos) -> cases."""


def make_cases(name: str, folder: Path, seed: int, limit: int | None = None) -> list[Case]:
    """The cases of a benchmark by name; raises NameNotFoundError with the nearest names."""
    if name not in BENCHMARKS:
        raise name_not_found("benchmark", name, BENCHMARKS)
    return list(BENCHMARKS[name](folder, seed, limit))
