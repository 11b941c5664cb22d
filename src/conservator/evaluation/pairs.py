"""Pairs of a damaged photo and an undamaged one of the same scene, as sets keep them.

A set has two subfolders, say input and target, or one folder in which NAME_lq or NAME_lr lies beside NAME_gt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conservator.errors import ConservatorError
from conservator.image import Image, in_8_bits
from conservator.photo import find_photos, load_photo

DAMAGED_FOLDERS = ("input", "noisy", "hazy", "damaged")
UNDAMAGED_FOLDERS = ("target", "GT", "label", "clean")
_DAMAGED_ENDINGS = ("_lq", "_lr")
_UNDAMAGED_ENDING = "_gt"
_WIDEST_FRAME = 16  # pixels; the published SOTS has a frame of 10 around its undamaged photos


@dataclass(frozen=True)
class Pair:
    """A damaged photo and its reference."""

    name: str
    """Unique in its folder: the damaged file's, without its ending."""
    damaged: Path
    undamaged: Path
    set: str = ""
    """The set that it is of, which tables have a line for."""
    scene: str = ""
    """The photograph that it is a part of, where a set has several parts of one; else its name."""

    def load(self) -> tuple[Image, Image]:
        """The damaged image and the undamaged one, which may be larger by a whole factor, in 8 bits.

        A frame of the same few pixels around the undamaged one is cut off. Raises ConservatorError for other sizes.
        """
        damaged, undamaged = (in_8_bits(load_photo(path).image) for path in (self.damaged, self.undamaged))
        (height, width), (whole_height, whole_width) = (image.shape[-2:] for image in (damaged, undamaged))
        factor = max(1, whole_width // width)  # the damaged photo may have been reduced
        if (whole_height, whole_width) == (factor * height, factor * width):
            return damaged, undamaged
        frame, odd = divmod(whole_width - width, 2)
        if whole_height - height == whole_width - width and 0 < frame <= _WIDEST_FRAME and not odd:
            return damaged, undamaged[..., frame:-frame, frame:-frame]
        sizes = f"{width}x{height} and {whole_width}x{whole_height} pixels"
        raise ConservatorError(
            f"{self.damaged} and {self.undamaged} have {sizes}, expected as many, or a multiple; "
            "what is measured is kept"
        )


def find_pairs(folder: Path) -> list[Pair]:
    """The pairs of a folder of either layout, sorted by name.

    In two subfolders the first by name in one belongs to the first by name in the other. Raises ConservatorError for a
    folder of neither layout, and where a photo has no partner.
    """
    if not folder.is_dir():
        raise ConservatorError(f"{folder} is no folder; give a folder of pairs")
    damaged, undamaged = (_subfolder(folder, names) for names in (DAMAGED_FOLDERS, UNDAMAGED_FOLDERS))
    if damaged is None and undamaged is None:
        return _side_by_side(folder)
    if damaged is None or undamaged is None:
        raise ConservatorError(
            f"{folder} has no subfolder {_either(UNDAMAGED_FOLDERS if damaged else DAMAGED_FOLDERS)}"
        )
    inputs, targets = names_of(find_photos(damaged), damaged), find_photos(undamaged)
    if len(inputs) != len(targets):
        raise ConservatorError(f"{damaged} holds {len(inputs)} photos and {undamaged} {len(targets)}, expected as many")
    return [Pair(name, path, target) for (name, path), target in zip(inputs.items(), targets, strict=True)]


def names_of(paths: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Photos by name: that of the file, or the path below the folder where two files share it."""
    shared = Counter(path.stem for path in paths)
    return {path.stem if shared[path.stem] == 1 else path.relative_to(folder).as_posix(): path for path in paths}


def _subfolder(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _side_by_side(folder: Path) -> list[Pair]:
    found = []
    for path in find_photos(folder, recursive=False):
        ending = next((ending for ending in _DAMAGED_ENDINGS if path.stem.endswith(ending)), None)
        if ending is None:
            continue
        name = path.stem.removesuffix(ending)
        partner = path.with_name(name + _UNDAMAGED_ENDING + path.suffix)
        if not partner.is_file():
            raise ConservatorError(f"{path} has no partner {partner.name}; give both photos of each pair")
        found.append(Pair(name, path, partner))
    if not found:
        raise ConservatorError(
            f"{folder} holds no pairs: it has no subfolders {_either(DAMAGED_FOLDERS)} and "
            f"{_either(UNDAMAGED_FOLDERS)}, and no photo NAME_lq or NAME_lr beside NAME_gt"
        )
    return found


def _either(names: Sequence[str]) -> str:
    return " or ".join(names)
