"""The parts of the photos: what designs are chosen on, what thresholds are set on, and what proves.

=============== ========================================================================================================
development     photos and pairs that designs and constants are chosen on: ``val/`` but for the sets below
calibration     what thresholds are set on, never weights: two thirds of the undamaged photos of ``train/research``; the
                pairs PolyU_sub Canon5D2, Nam_sub 01 to 06, City100_sub nikon
test_1, test_2  what final tables are of, and nothing is chosen on: a sixth each of the undamaged photos; of test_1 also
                the pairs PolyU_sub Canon80D, Nam_sub 07 to 12, City100_sub iphone
=============== ========================================================================================================

The data's root holds the folders ``train/research`` and ``val`` (docs/data.md). The sha256 of a file's name alone
decides to which part an undamaged photo belongs, so a set that grows moves no photo. Pictures of BSDS500 that are
targets of Rain100H_sub or RainFu_sub, which are development pairs, belong to no part.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F

from conservator.claims import source_commit
from conservator.errors import ConservatorError, name_not_found
from conservator.evaluation.pairs import Pair, find_pairs, names_of
from conservator.image import Image, in_8_bits
from conservator.photo import find_photos, load_photo
from conservator.resample import bicubic_resize

Part: TypeAlias = Literal["development", "calibration", "test_1", "test_2"]
PARTS: tuple[Part, ...] = get_args(Part)
TEST_PARTS: frozenset[str] = frozenset({"test_1", "test_2"})
"""Parts that prove: each opening is a line in docs/results/openings.md."""

_DEVELOPMENT = ("val/CBSD68", "val/CID22_val", "val/LIVE1_10", "val/Set14", "val/Set5")
_RESEARCH = tuple(f"train/research/{name}" for name in ("bsds500", "div2k_lrx4", "sunhays80", "wallpapers"))
_HALVED = frozenset({"bsds500", "CBSD68", "sunhays80"})
"""Sets that carry the noise of their JPEG files, CBSD68 because it is of BSDS500: half as large, little is left."""
_RAINY = ("val/Rain100H_sub", "val/RainFu_sub")
_THUMBNAIL = 16  # pixels a side
_SAME = 0.03
"""Root mean square difference of the thumbnails of two files of one picture. Measured in November 2026: 17 of the 22
targets have a twin in bsds500, at most 0.009 away; everything else is at least 0.08 away."""


@dataclass(frozen=True)
class PhotoItem:
    """An undamaged photo."""

    set: str
    name: str
    """Unique in its set."""
    path: Path
    halved: bool = False
    """Whether it is reduced by 2 when it is loaded."""

    def load(self) -> Image:
        """The photo, in 8 bits."""
        image = load_photo(self.path).image
        return in_8_bits(bicubic_resize(image, 0.5) if self.halved else image)


@dataclass(frozen=True)
class PairSet:
    """Real or foreign pairs of one kind, which belong to one part; one line of a table."""

    name: str
    part: Part
    folder: str
    begin: tuple[str, ...] = ("",)
    """How the names of its pairs begin."""
    parts_of_scenes: bool = False
    """Whether several pairs are parts of one photograph; their names then end in _NUMBER."""

    def pairs(self, folder: Path) -> list[Pair]:
        """Its pairs; ``folder`` is the one that holds the set's. Raises ConservatorError where there are none."""
        place = folder / self.folder
        found = [pair for pair in find_pairs(place) if pair.name.startswith(self.begin)]
        if not found:
            raise ConservatorError(f"{place} holds no pairs whose names begin with {' or '.join(self.begin)}")
        return [replace(pair, set=self.name, scene=f"{self.folder}/{self._scene(pair.name)}") for pair in found]

    def _scene(self, name: str) -> str:
        return name.rpartition("_")[0] if self.parts_of_scenes else name


PAIR_SETS: tuple[PairSet, ...] = (
    PairSet("FiveK9", "development", "FiveK9"),
    PairSet("RainFu_sub", "development", "RainFu_sub"),
    PairSet("Rain100H_sub", "development", "Rain100H_sub"),
    PairSet("SOTS_indoor_sub", "development", "SOTS_indoor_sub"),
    PairSet("PolyU_sub Canon5D2", "calibration", "PolyU_sub", ("Canon5D2",), parts_of_scenes=True),
    PairSet("Nam_sub 01 to 06", "calibration", "Nam_sub", tuple(f"{n:02d}_" for n in range(1, 7))),
    PairSet("City100_sub nikon", "calibration", "City100_sub", ("nikon",)),
    PairSet("PolyU_sub Canon80D", "test_1", "PolyU_sub", ("Canon80D",), parts_of_scenes=True),
    PairSet("Nam_sub 07 to 12", "test_1", "Nam_sub", tuple(f"{n:02d}_" for n in range(7, 13))),
    PairSet("City100_sub iphone", "test_1", "City100_sub", ("iphone",)),
)


def pair_set(name: str) -> PairSet:
    """A set of pairs by name; raises NameNotFoundError with the nearest names."""
    for found in PAIR_SETS:
        if found.name == name:
            return found
    raise name_not_found("set of pairs", name, [known.name for known in PAIR_SETS])


def pairs_of(data: Path, part: str) -> list[Pair]:
    """The pairs of a part, set by set; ``data`` is the data's root.

    Raises ConservatorError where a set is not there, or the part has no pairs.
    """
    check_part(part)
    sets = [found for found in PAIR_SETS if found.part == part]
    if not sets:
        parts = [known for known in PARTS if any(found.part == known for found in PAIR_SETS)]
        raise ConservatorError(f"there are no pairs in {part}; choose from {', '.join(parts)}")
    return [pair for found in sets for pair in found.pairs(_folder(data, "val"))]


def photos_of(data: Path, part: str) -> list[PhotoItem]:
    """The undamaged photos of a part; ``data`` is the data's root.

    Their order is by hash, so that the first of them are of all sets. Raises ConservatorError where a set is not there.
    """
    check_part(part)
    if part == "development":
        found = [item for name in _DEVELOPMENT for item in _items(_folder(data, name))]
    else:
        targets = rain_targets(data)
        found = [item for name in _RESEARCH for item in _items(_folder(data, name))]
        found = [item for item in found if part_of(item.path.name) == part and item.path not in targets]
    return sorted(found, key=lambda item: name_digest(item.path.name)[8:])


def part_of(name: str) -> Part:
    """The part of an undamaged photo of ``train/research`` by the name of its file, whatever its set."""
    place = int.from_bytes(name_digest(name)[:8], "big") / 2**64
    return "calibration" if place < 2 / 3 else "test_1" if place < 5 / 6 else "test_2"


def name_digest(name: str) -> bytes:
    """The sha256 of a file's name. Its first eight bytes choose the part; the others are free for other choices."""
    return hashlib.sha256(name.encode()).digest()


def rain_targets(data: Path) -> frozenset[Path]:
    """The files of bsds500 that are targets of Rain100H_sub or RainFu_sub, turned and mirrored ones too.

    They are found by comparing thumbnails. Of the full sets 82 are targets; these are those of the pairs that are here.
    """
    targets = tuple(pair.undamaged for name in _RAINY for pair in find_pairs(_folder(data, name)))
    return _twins(tuple(find_photos(_folder(data, _RESEARCH[0]))), targets)


@cache
def _twins(photos: tuple[Path, ...], targets: tuple[Path, ...]) -> frozenset[Path]:
    """Photos that show what one of the targets shows."""
    small = torch.stack([_thumbnail(path) for path in photos])
    found = set()
    for target in targets:
        turned = [view.rot90(n, (-2, -1)) for view in _both_ways(_thumbnail(target)) for n in range(4)]
        near = torch.stack([(small - view).square().mean((1, 2, 3)).sqrt() for view in turned]).amin(0)
        found |= {photos[i] for i in (near < _SAME).nonzero().flatten().tolist()}
    return frozenset(found)


def _both_ways(picture: torch.Tensor) -> Iterable[torch.Tensor]:
    return picture, picture.flip(-1)


def _thumbnail(path: Path) -> torch.Tensor:
    return F.adaptive_avg_pool2d(load_photo(path).image, _THUMBNAIL)[0]


def _items(folder: Path) -> list[PhotoItem]:
    named = names_of(find_photos(folder), folder)
    return [PhotoItem(folder.name, name, path, folder.name in _HALVED) for name, path in named.items()]


def _folder(data: Path, name: str) -> Path:
    if not (data / name).is_dir():
        raise ConservatorError(f"{data / name} is not there; give the folder that holds train/research and val")
    return data / name


def opened_part(files: Iterable[Path]) -> str | None:
    """The test part that one of the files belongs to, known by its folder and its name; None where none does.

    Whoever gives a folder of a set instead of a part opens the test pairs in it all the same.
    """
    for path in files:
        place = path.resolve()
        for known in PAIR_SETS:
            if known.part in TEST_PARTS and known.folder in place.parts[:-1] and place.name.startswith(known.begin):
                return known.part
        if place.parent.parent.parts[-2:] == ("train", "research") and part_of(place.name) in TEST_PARTS:
            return part_of(place.name)
    return None


def opening(part: str | None, why: str | None, command: str) -> str | None:
    """The line of docs/results/openings.md for a command that opens a test part; None for any other part.

    Raises ConservatorError for a test part without a reason, and for a reason without a test part.
    """
    told = " ".join((why or "").split())
    if part not in TEST_PARTS:
        if why is not None:
            raise ConservatorError(f'--open "{told}" is for the test parts, and this opens none; leave it out')
        return None
    if not told:
        raise ConservatorError(
            f'{part} is a test part: nothing is chosen on it, and every opening is recorded; say why by --open "WHY"'
        )
    cells = (time.strftime("%Y-%m-%d"), part, source_commit() or "", f"`{command}`", told.replace("|", "\\|"))
    return f"| {' | '.join(cells)} |"


def check_part(part: str) -> None:
    """Raise NameNotFoundError unless it is the name of a part."""
    if part not in PARTS:
        raise name_not_found("part", part, PARTS)
