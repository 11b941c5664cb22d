"""The cases of a benchmark: which pictures are damaged how. Seed, combination and a photo's place fix every pixel.

Photos are those of any folder, or those of a part of the photos (parts.py), of which the folder is the data's root.
Damaged pictures are what a file of 8 bits holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np

from conservator.degradations import (
    MIO_GROUPS,
    RESTORE_R1_SETTINGS,
    RESTOREAGENT_COMBINATIONS,
    Kind,
    Recipe,
    degrade,
    mio_recipe,
)
from conservator.degradations.protocols import ALL_IN_ONE_COMBINATIONS, Combination
from conservator.errors import ConservatorError, name_not_found
from conservator.evaluation.mixture import Fate, fate_of
from conservator.evaluation.pairs import Pair, find_pairs, names_of
from conservator.evaluation.parts import PAIR_SETS, pairs_of, photos_of
from conservator.evaluation.undamaged import undamaged_of
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
    scene: str = ""
    """The photograph that it is a part of, where several photos are parts of one; else ``photo`` is one of its own."""
    files: tuple[Path, ...] = ()
    """The files that it is made from."""

    @property
    def name(self) -> str:
        """Unique in its benchmark."""
        return f"{self.group}/{self.combination}/{self.photo}"


def mio_cases(folder: Path, seed: int, limit: int | None = None, part: str | None = None) -> Iterator[Case]:
    """AgenticIR's 16 combinations in groups A, B and C, its test ranges, haze by a made-up depth."""
    for g, (group, combinations) in enumerate(MIO_GROUPS.items()):
        yield from _combinations(group, combinations, _photos(folder, limit, part), (seed, g))


def restoreagent_cases(folder: Path, seed: int, limit: int | None = None, part: str | None = None) -> Iterator[Case]:
    """RestoreAgent's seven combinations with the ranges of the MiO protocol, for its own were not published."""
    photos = _photos(folder, limit, part)
    return _combinations("restoreagent", RESTOREAGENT_COMBINATIONS, photos, (seed, len(MIO_GROUPS)))


def settings_cases(folder: Path, seed: int, limit: int | None = None, part: str | None = None) -> Iterator[Case]:
    """Restore-R1's four settings, each a group, with the ranges of the MiO protocol."""
    for number, (setting, combinations) in enumerate(RESTORE_R1_SETTINGS.items(), len(MIO_GROUPS) + 2):
        yield from _combinations(setting, combinations, _photos(folder, limit, part), (seed, number))


def all_in_one_cases(folder: Path, seed: int, limit: int | None = None, part: str | None = None) -> Iterator[Case]:
    """The four combinations on which RestoreAgent meets all-in-one networks, with the ranges of the MiO protocol."""
    photos = _photos(folder, limit, part)
    return _combinations("all-in-one", ALL_IN_ONE_COMBINATIONS, photos, (seed, len(MIO_GROUPS) + 1))


@dataclass(frozen=True)
class _Source:
    """An undamaged photo to damage."""

    name: str
    path: Path
    load: Callable[[], Image]


def _photos(folder: Path, limit: int | None, part: str | None) -> list[_Source]:
    if part is not None:
        return [_Source(f"{i.set}/{i.name}", i.path, i.load) for i in photos_of(folder, part)[:limit]]
    return [_Source(name, path, _loading(path)) for name, path in _named(folder, limit).items()]


def _named(folder: Path, limit: int | None) -> dict[str, Path]:
    """The first photos of a folder by name."""
    return names_of(find_photos(folder)[:limit], folder)


def _loading(path: Path) -> Callable[[], Image]:
    return lambda: load_photo(path).image


def _combinations(
    group: str, combinations: Sequence[Combination], photos: Sequence[_Source], seed: tuple[int, ...]
) -> Iterator[Case]:
    for c, combination in enumerate(combinations):
        label = "+".join(kind.label for kind in combination)
        for p, photo in enumerate(photos):
            make = _damaged(photo, combination, (*seed, c, p))
            yield Case(group, label, photo.name, make, frozenset(combination), files=(photo.path,))


def _damaged(photo: _Source, combination: Combination, seed: tuple[int, ...]) -> Callable[[], tuple[Image, Image]]:
    def make() -> tuple[Image, Image]:
        recipe: Recipe = mio_recipe(combination, np.random.default_rng(seed))
        clean = photo.load()
        return in_8_bits(degrade(clean, recipe)), clean

    return make


def mixture_cases(folder: Path, seed: int, limit: int | None = None, part: str | None = None) -> Iterator[Case]:
    """One case of each photo, by the natural mixture (mixture.py), and on top the real pairs of a part that has some.

    ``limit`` is how many photos there are at most, and how many pairs of each set.
    """
    for photo in _photos(folder, limit, part):
        fate = fate_of(photo.path.name, seed)
        yield Case("mixture", fate.stratum, photo.name, _befallen(photo, fate), fate.kinds, files=(photo.path,))
    if any(known.part == part for known in PAIR_SETS):
        yield from real_cases(folder, seed, limit, part)


def _befallen(photo: _Source, fate: Fate) -> Callable[[], tuple[Image, Image]]:
    return lambda: fate.of(photo.load())


def clean_cases(folder: Path, seed: int, limit: int | None = None, part: str | None = None) -> Iterator[Case]:
    """Photos that need nothing: whatever is done to them is harm.

    Of a part they are of many kinds (undamaged.py), ``limit`` of each at most.
    """
    if part is None:
        for photo in _photos(folder, limit, None):
            yield Case("clean", "photos", photo.name, _itself(photo.load), frozenset(), files=(photo.path,))
    else:
        for one in undamaged_of(folder, part, seed, limit):
            yield Case("clean", one.stratum, one.name, _itself(one.make), frozenset(), files=one.files)


def _itself(load: Callable[[], Image]) -> Callable[[], tuple[Image, Image]]:
    def make() -> tuple[Image, Image]:
        image = in_8_bits(load())
        return image, image

    return make


def pairs_cases(folder: Path, seed: int, limit: int | None = None, part: str | None = None) -> Iterator[Case]:
    """Photos that were really damaged, with references, in one folder (pairs.py)."""
    _refuse_part("pairs", part)
    for pair in find_pairs(folder)[:limit]:
        yield _pair("pairs", folder.name, pair)


def real_cases(folder: Path, seed: int, limit: int | None = None, part: str | None = None) -> Iterator[Case]:
    """The pairs of a part, set by set, ``limit`` of each at most."""
    if part is None:
        raise ConservatorError("real pairs are those of a part; say which: development, calibration or test_1")
    for name, pairs in groupby(pairs_of(folder, part), lambda pair: pair.set):
        for pair in list(pairs)[:limit]:
            yield _pair("real", name, pair)


def _pair(group: str, stratum: str, pair: Pair) -> Case:
    return Case(group, stratum, pair.name, pair.load, scene=pair.scene, files=(pair.damaged, pair.undamaged))


def unpaired_cases(folder: Path, seed: int, limit: int | None = None, part: str | None = None) -> Iterator[Case]:
    """Photos that were really damaged, without a reference."""
    _refuse_part("unpaired", part)
    for name, path in _named(folder, limit).items():
        yield Case("unpaired", folder.name, name, _alone(path), referenced=False, files=(path,))


def _alone(path: Path) -> Callable[[], tuple[Image, None]]:
    return lambda: (load_photo(path).image, None)


def _refuse_part(name: str, part: str | None) -> None:
    if part is not None:
        raise ConservatorError(f"{name} takes the photos of one folder and no part; leave the part out")


class _Maker(Protocol):
    def __call__(self, folder: Path, seed: int, limit: int | None, part: str | None) -> Iterator[Case]: ...


BENCHMARKS: Mapping[str, _Maker] = {
    "mio": mio_cases,
    "restoreagent": restoreagent_cases,
    "settings": settings_cases,
    "all-in-one": all_in_one_cases,
    "mixture": mixture_cases,
    "clean": clean_cases,
    "pairs": pairs_cases,
    "real": real_cases,
    "unpaired": unpaired_cases,
}
BY_PART = frozenset({"clean", "real"})
"""Benchmarks whose sets are those of a part, so that their commands take the data's root first."""


def make_cases(name: str, folder: Path, seed: int, limit: int | None = None, part: str | None = None) -> list[Case]:
    """The cases of a benchmark by name; raises NameNotFoundError with the nearest names.

    With a ``part`` its photos or pairs are taken, and ``folder`` is the data's root; ConservatorError where a benchmark
    knows of none, or needs one.
    """
    if name not in BENCHMARKS:
        raise name_not_found("benchmark", name, BENCHMARKS)
    return list(BENCHMARKS[name](folder, seed, limit, part))
