"""Can consistency tell harm from benefit? Functions of metrics/consistency.py beside what perception says.

python benchmarks/consistency.py treat VAL -o out/consistency      treatments and what perception says of them
python benchmarks/consistency.py measure -o out/consistency        the functions, to out/consistency/rows.csv
python benchmarks/consistency.py tables -o out/consistency         how well each number tells harm from benefit

VAL is a folder of development photos: CID22_val, Set14, LIVE1_10, CBSD68, PolyU_sub, Nam_sub, City100_sub, RainFu_sub
and Rain100H_sub; of the pairs of real photos only the calibration parts are read. Each photo is taken undamaged, as a
good JPEG, and with single damages of makes of the training and of makes held out from it; its middle, 256 pixels a
side, is then treated with tools for its damage and with tools for others. A treatment did harm where it lost more than
0.1 dB of PSNR to the undamaged photo. ``treat`` goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import rankdata

from conservator.degradations.catalog import BY_NAME
from conservator.degradations.codec import JpegCompression
from conservator.image import Image, in_8_bits
from conservator.kinds import Severity
from conservator.metrics import consistency
from conservator.metrics.fidelity import psnr
from conservator.perception import Look, load_perception
from conservator.photo import JpegTables, find_photos, load_photo
from conservator.photo.quantisation import tables_of
from conservator.tools.catalog import make_toolbox
from conservator.tools.classical.jpeg_traces import find_jpeg_traces

SIDE = 256
CAP, HARM, UNCHANGED = 50.0, 0.1, 60.0
"""dB: what an undamaged photo scores; a loss that counts as harm; a picture that close to its input is untouched."""
PHOTOS = {"CID22_val": 20, "Set14": 14, "LIVE1_10": 10, "CBSD68": 8}
"""The first of each folder; Set14's monarch is LIVE1's, too, and left out."""
MAKES = {
    "noise": ("gaussian_noise", "poisson_noise", "camera_noise", "film_grain", "luminance_noise", "raw_noise"),
    "held-out noise": ("enlarged_noise", "row_banding"),
    "jpeg": ("jpeg_compression",),
    "held-out jpeg": ("reduced_jpeg", "webp_compression"),
    "blur": ("defocus_blur", "gaussian_blur", "line_blur", "motion_blur"),
    "held-out blur": ("hexagon_blur", "shaken_hand"),
    "rain": ("rain", "downpour", "veiled_rain"),
}
DENOISERS = ("denoise_light", "denoise_medium", "denoise_heavy")
DEBLOCKERS = ("dejpeg_mild", "dejpeg_severe")
CLASSICAL_DEBLURS = (
    *("wiener_deblur_defocus", "richardson_lucy_defocus", "wiener_deblur_gaussian"),
    *("wiener_deblur_motion", "richardson_lucy_motion"),
)
TOOLS = (*DENOISERS, *DEBLOCKERS, "deblur_defocus", *CLASSICAL_DEBLURS, "derain")
GROUPS = {
    **dict.fromkeys(DENOISERS, "denoisers"),
    **dict.fromkeys(DEBLOCKERS, "JPEG tools"),
    **dict.fromkeys(("deblur_defocus", *CLASSICAL_DEBLURS), "deblurring"),
    "derain": "rain tool",
}
TODAY = ("gain", "confidence")
"""What perception says today: minus the cautious gain, and 1 minus the confidence of the tool's damage."""


@dataclass(frozen=True)
class Case:
    """A photo's middle, damaged; ``tables`` where it came out of a JPEG whose blocks begin in its corner."""

    name: str
    photo: str
    make: str
    damage: str
    before: Image
    clean: Image
    seed: int
    tables: JpegTables | None = None


def middle(image: Image) -> Image:
    """The middle part, at a multiple of 16 pixels, so that a JPEG's blocks begin in its corner."""
    top, left = (max(0, length - SIDE) // 2 // 16 * 16 for length in image.shape[-2:])
    return image[..., top : top + SIDE, left : left + SIDE].contiguous()


def photo_cases(val: Path) -> Iterator[Case]:
    """Seven cases of each undamaged photo."""
    paths = [path for folder, count in PHOTOS.items() for path in find_photos(val / folder)[:count]]
    paths = [path for path in paths if (path.parent.name, path.stem) != ("Set14", "monarch")]
    for i, path in enumerate(paths):
        whole, rng = in_8_bits(load_photo(path).image), np.random.default_rng([7, i])
        for j, (make, damage, before, tables) in enumerate(_damaged(whole, i, rng)):
            photo = f"{path.parent.name}/{path.stem}"
            yield Case(
                f"{photo} {make}".replace("/", "_"), photo, make, damage, before, middle(whole), 7 * i + j, tables
            )


def _damaged(whole: Image, i: int, rng: np.random.Generator) -> Iterator[tuple[str, str, Image, JpegTables | None]]:
    """Make, damage, picture and tables; half of the cases are of LOW severity, where the most harm is done."""
    yield "undamaged", "none", middle(whole), None
    good = JpegCompression(int(rng.integers(88, 97, endpoint=True)), "4:2:0" if i % 2 else "4:4:4")
    yield "good jpeg", "jpeg", middle(good(whole)), tables_at(good.quality, good.subsampling)
    half = ("held-out jpeg", "held-out blur") if i % 2 else ("jpeg", "blur")
    for group in ("noise", "held-out noise", *half, "rain"):
        makes = MAKES[group]
        make = makes[(i // 2 if len(makes) < 4 else i) % len(makes)]
        damage = BY_NAME[make].sample(Severity(int(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2]))), rng)
        tables = tables_at(damage.quality, damage.subsampling) if isinstance(damage, JpegCompression) else None
        yield make, group.removeprefix("held-out "), middle(in_8_bits(damage(whole))), tables


def paired_cases(val: Path) -> Iterator[Case]:
    """Real damage, and rain made by others, with references."""
    polyu, city = (
        sorted((val / "PolyU_sub").glob("Canon5D2*_gt.jpg"))[::2],
        (val / "City100_sub").glob("nikon*_gt.webp"),
    )
    found = [("polyu", "noise", path.with_name(path.name.replace("_gt", "_lq")), path) for path in polyu]
    nam = [(val / f"Nam_sub/noisy/{n:02d}_noise.webp", val / f"Nam_sub/GT/{n:02d}_gt.webp") for n in range(1, 7)]
    found += [("nam", "noise", *pair) for pair in nam]
    found += [("nikon", "blur", path.with_name(path.name.replace("_gt", "_lr")), path) for path in sorted(city)]
    for folder in ("RainFu_sub", "Rain100H_sub"):
        for path in sorted((val / folder / "input").iterdir()):
            found.append((folder, "rain", path, val / folder / "target" / path.name.replace("input", "norain")))
    for i, (make, damage, path, clean) in enumerate(found):
        photo = load_photo(path)
        before, reference = middle(photo.image), middle(load_photo(clean).image)
        yield Case(
            f"{make}_{clean.stem}", f"{make}/{clean.stem}", make, damage, before, reference, 10_000 + i, photo.jpeg
        )


def tables_at(quality: int, subsampling: str) -> JpegTables:
    """libjpeg's tables of a quality."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (16, 16)).save(file, "JPEG", quality=quality, subsampling=subsampling)
    with PIL.Image.open(file) as image:
        tables = tables_of(image)  # type: ignore[arg-type]
    assert tables is not None
    return tables


def tools_for(case: Case) -> tuple[str, ...]:
    """A tool of each kind, two where there are many; for noise two of its three."""
    rng = np.random.default_rng([8, case.seed])
    denoisers = rng.choice(DENOISERS, 2 if case.damage == "noise" else 1, replace=False)
    return (
        *denoisers,
        rng.choice(DEBLOCKERS),
        "deblur_defocus",
        *rng.choice(CLASSICAL_DEBLURS, 2, replace=False),
        "derain",
    )


def treat(val: Path, output: Path) -> None:
    """Treat every case, a file for each; pictures are kept as half-precision numbers."""
    toolbox, perception = make_toolbox("conservator"), load_perception("perception")
    for name in TOOLS:
        toolbox[name].setup("cpu")
    for cases in (paired_cases(val), photo_cases(val)):
        for case in cases:
            path = output / f"{case.name}.pt"
            if path.exists():
                continue
            first, treatments = Look(case.before, perception.grade(case.before)), []
            for name in map(str, tools_for(case)):
                after, removes = toolbox[name](case.before), toolbox[name].spec.removes
                if psnr(case.before, after) > UNCHANGED:
                    continue
                gain = perception.weigh(first, Look(after, perception.grade(after)), removes).cautious("fidelity")
                sure = max(first.percept.confidences[kind] for kind in removes)
                treatments.append((name, after.half(), psnr(after, case.clean, CAP), gain, sure))
            about = {"photo": case.photo, "make": case.make, "damage": case.damage, "tables": case.tables}
            quality = psnr(case.before, case.clean, CAP)
            torch.save({**about, "before": case.before.half(), "psnr": quality, "treatments": treatments}, path)


def measure(output: Path) -> None:
    """Measure every treatment: rows.csv, a number that cannot be computed being empty."""
    with (output / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("photo", "make", "damage", "tool", "psnr_before", "psnr_after", *TODAY, *NUMBERS))
        for path in sorted(output.glob("*.pt")):
            case = torch.load(path, weights_only=False)  # our own file, with tables in it
            before = case["before"].float()
            for name, after, quality, gain, sure in case["treatments"]:
                numbers = [number(before, after.float(), case["tables"]) for number in NUMBERS.values()]
                cells = [
                    f"{x:.6g}" if math.isfinite(x) else "" for x in (case["psnr"], quality, -gain, 1 - sure, *numbers)
                ]
                writer.writerow((case["photo"], case["make"], case["damage"], name, *cells))


def _change(before: Image, after: Image, tables: JpegTables | None) -> float:
    """How much was changed at all, in dB: what any function has to beat."""
    return -psnr(before, after)


def _known_cells(before: Image, after: Image, tables: JpegTables | None) -> float:
    return math.nan if tables is None else consistency.jpeg_cells(before, after, tables)


def _found_cells(before: Image, after: Image, tables: JpegTables | None) -> float:
    """The cells of the luma that the pixels alone tell."""
    found = find_jpeg_traces(before)
    if found is None:
        return math.nan
    luma_alone = JpegTables(tables_at(found.quality, "4:4:4").steps[:1], "4:4:4")
    return consistency.jpeg_cells(before, after, luma_alone, found.top, found.left)


NUMBERS: Mapping[str, Callable[[Image, Image, JpegTables | None], float]] = {
    "change": _change,
    "noise_structure": lambda before, after, _: consistency.noise_structure(before, after),
    "jpeg_cells": _known_cells,
    "jpeg_cells, found": _found_cells,
    "streaks": lambda before, after, _: consistency.streaks(before, after),
    "the lower of both": lambda before, after, _: min(
        consistency.noise_structure(before, after), consistency.streaks(before, after)
    ),
}
OF_GROUP = {
    "denoisers": ("change", "noise_structure"),
    "JPEG tools": ("change", "noise_structure", "jpeg_cells", "jpeg_cells, found"),
    "deblurring": ("change", "noise_structure"),
    "rain tool": ("change", "noise_structure", "streaks", "the lower of both"),
}
"""What is shown beside what perception says today."""


FEWEST = 8
"""Harmful and harmless treatments each, below which no figure is given."""
REAL = ("polyu", "nam", "nikon")
STRATA: Mapping[str, Mapping[str, Callable[[Mapping[str, str]], bool]]] = {
    "denoisers": {
        "all": lambda row: True,
        "on noise": lambda row: row["damage"] == "noise",
        "on anything else": lambda row: row["damage"] != "noise",
    },
    "JPEG tools": {
        "all": lambda row: True,
        "on JPEGs whose tables are known": lambda row: row["damage"] == "jpeg" and row["jpeg_cells"] != "",
        "on anything but JPEGs": lambda row: row["damage"] != "jpeg",
    },
    "deblurring": {
        "all": lambda row: True,
        "on blur": lambda row: row["damage"] == "blur",
        "on anything else": lambda row: row["damage"] != "blur",
        "on real pairs": lambda row: row["make"] in REAL,
    },
    "rain tool": {
        "all": lambda row: True,
        "on rain": lambda row: row["damage"] == "rain",
        "on anything else": lambda row: row["damage"] != "rain",
    },
}
"""Which treatments of a kind of tool are looked at."""


class Rows:
    """Treatments of one kind of tool: scores by name, each (N,), harm (N,) and the photo of each (N,)."""

    def __init__(self, rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> None:
        self.scores = {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}
        loss = np.array([float(row["psnr_before"]) - float(row["psnr_after"]) for row in rows])
        self.harm = loss > HARM
        self.photos = np.unique([row["photo"] for row in rows], return_inverse=True)[1]

    def combined(self, names: Sequence[str], folds: int = 10) -> NDArray[np.float64]:
        """What a logistic regression on these says of each treatment, learned on the photos of other folds."""
        columns = np.stack([self.scores[name] for name in names], axis=1)
        known = np.isfinite(columns)
        inputs = np.where(known, columns, np.nanmean(columns, axis=0))
        inputs = (inputs - inputs.mean(0)) / np.maximum(inputs.std(0), 1e-9)
        inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
        fold = np.random.default_rng(0).permutation(self.photos.max() + 1)[self.photos] % folds
        said = np.empty(len(inputs))
        for n in range(folds):
            said[fold == n] = inputs[fold == n] @ _logistic(inputs[fold != n], self.harm[fold != n])
        return said


def _logistic(inputs: NDArray[np.float64], harm: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights of a logistic regression, with a small penalty on all but the last."""
    signs = np.where(harm, 1.0, -1.0)

    def loss(weights: NDArray[np.float64]) -> float:
        return float(np.logaddexp(0, -signs * (inputs @ weights)).sum() + 0.5 * np.square(weights[:-1]).sum())

    found: NDArray[np.float64] = minimize(loss, np.zeros(inputs.shape[1])).x
    return found


def auc(scores: NDArray[np.float64], harm: NDArray[np.bool_]) -> float:
    """How often a harmful treatment scores above a harmless one; NaN without one of either."""
    harmful, harmless = int(harm.sum()), int((~harm).sum())
    if not harmful or not harmless:
        return math.nan
    ranks = rankdata(scores)
    return float((ranks[harm].sum() - harmful * (harmful + 1) / 2) / (harmful * harmless))


def by_photo(rows: Rows, figure: Callable[[NDArray[np.intp]], float], draws: int = 500) -> tuple[float, float]:
    """95 % interval of a figure of the chosen rows, photos drawn with replacement."""
    rng = np.random.default_rng(0)
    of_photo = [np.flatnonzero(rows.photos == n) for n in range(rows.photos.max() + 1)]
    found = [
        figure(np.concatenate([of_photo[n] for n in rng.integers(len(of_photo), size=len(of_photo))]))
        for _ in range(draws)
    ]
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)


def caught(scores: NDArray[np.float64], harm: NDArray[np.bool_]) -> float:
    """Share of harmful treatments that score above 95 % of the harmless ones."""
    return float((scores[harm] > np.quantile(scores[~harm], 0.95)).mean())


def column(rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> dict[str, str]:
    """For each number, and for the regressions: its AUC, its interval, and the harm it catches."""
    found = Rows(rows, (*TODAY, *names))
    today, every = found.combined(TODAY), found.combined((*TODAY, *names))
    cells = {}
    for name, scores in {**found.scores, "perception, both": today, "all together": every}.items():
        known = np.isfinite(scores)
        part, values = Rows([rows[n] for n in np.flatnonzero(known)], ()), scores[known]
        if min(part.harm.sum(), (~part.harm).sum()) < FEWEST:
            cells[name] = f"too few of {known.sum()}"
            continue
        low, high = by_photo(part, partial(_auc_of, values, part.harm))
        share = caught(values, part.harm)
        of = "" if known.all() else f", of {known.sum()}"
        cells[name] = f"{auc(values, part.harm):.2f} ({low:.2f}, {high:.2f}), {share:.0%}{of}"
    best = max((*(found.scores[name] for name in TODAY), today), key=lambda scores: auc(scores, found.harm))
    low, high = by_photo(found, lambda n: _auc_of(every, found.harm, n) - _auc_of(best, found.harm, n))
    more = auc(every, found.harm) - auc(best, found.harm)
    return {**cells, "all together over the best of perception": f"{more:+.2f} ({low:+.2f}, {high:+.2f})"}


def _auc_of(scores: NDArray[np.float64], harm: NDArray[np.bool_], chosen: NDArray[np.intp]) -> float:
    return auc(scores[chosen], harm[chosen])


def tables(output: Path) -> list[str]:
    """A table for each kind of tool: all its treatments, and some of them."""
    with (output / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines: list[str] = []
    for group, names in OF_GROUP.items():
        own = [row for row in rows if GROUPS[row["tool"]] == group]
        strata = {title: [row for row in own if wanted(row)] for title, wanted in STRATA[group].items()}
        harm = {title: int(Rows(part, ()).harm.sum()) for title, part in strata.items()}
        strata = {title: part for title, part in strata.items() if FEWEST <= harm[title] <= len(part) - FEWEST}
        head = [f"{title}: {len(part)}, {harm[title]} harmful" for title, part in strata.items()]
        found = [column(part, names) for part in strata.values()]
        lines += [f"### {group}", "", f"| number | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|"]
        lines += [f"| {name} | {' | '.join(cells[name] for cells in found)} |" for name in found[0]] + [""]
    return lines


def main() -> None:
    """Treat, measure, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["treat", "measure", "tables"])
    parser.add_argument("val", type=Path, nargs="?", default=Path())
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.what == "treat":
        treat(options.val, options.output)
    elif options.what == "measure":
        measure(options.output)
    else:
        print("\n".join(tables(options.output)))


if __name__ == "__main__":
    main()
