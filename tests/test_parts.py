"""The parts of the photos: who belongs where, pairs of either layout, undamaged pictures of many kinds, openings."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from skimage import data
from test_cli import conservator

from conservator.errors import ConservatorError, NameNotFoundError
from conservator.evaluation import parts
from conservator.evaluation.cases import Case, make_cases
from conservator.evaluation.drawings import DRAWINGS
from conservator.evaluation.pairs import find_pairs
from conservator.evaluation.parts import (
    PAIR_SETS,
    PARTS,
    opened_part,
    opening,
    pairs_of,
    part_of,
    photos_of,
    rain_targets,
)
from conservator.evaluation.undamaged import FILM_GRAIN
from conservator.image import Image

COFFEE, CAT, SUIT = data.coffee(), data.chelsea(), data.astronaut()


def save(pixels: np.ndarray, path: Path, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(np.ascontiguousarray(pixels)).save(path, **options)


def crop(number: int) -> np.ndarray:
    """One of many pieces, 48 pixels high and 64 wide, that show different things."""
    picture = (COFFEE, CAT, SUIT)[number % 3]
    top, left = 17 * number % 230, 29 * number % 370
    return picture[top : top + 48, left : left + 64]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in all the folders, few and small. Two of bsds500 are targets of rain, one turned and mirrored."""
    path = tmp_path_factory.mktemp("root")
    research, val = path / "train" / "research", path / "val"
    for n in range(24):
        save(crop(n), research / "bsds500" / f"{n}.jpg", quality=92)
    for n, name in enumerate(["div2k_lrx4", "sunhays80", "wallpapers"] * 8):
        save(crop(30 + n), research / name / f"{name[0]}{n:02d}.png")
    for n, name in enumerate(["CBSD68", "CID22_val", "LIVE1_10", "Set14", "Set5"]):
        save(crop(60 + n), val / name / f"{n}.png")
    targets = [np.rot90(crop(3)[:, ::-1]), crop(70)], [crop(5), crop(71)]
    for name, pictures in zip(("Rain100H_sub", "RainFu_sub"), targets, strict=True):
        for n, picture in enumerate(pictures):
            save(picture, val / name / "target" / f"norain{n}.webp", quality=90)
            save(255 - picture, val / name / "input" / f"rain{n}.webp", quality=90)
    for name, folders in {"SOTS_indoor_sub": ("hazy", "GT"), "FiveK9": ("input", "label")}.items():
        for folder in folders:
            save(crop(80), val / name / folder / "1400_1.png")
    for folder, ending in (("noisy", "noise"), ("GT", "gt")):
        for n in (1, 6, 7, 12):
            save(crop(n), val / "Nam_sub" / folder / f"{n:02d}_{ending}.png")
    for camera in ("Canon5D2_5_160_desk", "Canon80D_8_8_ball"):
        for n, ending in ((1, "lq"), (1, "gt"), (2, "lq"), (2, "gt")):
            save(crop(n), val / "PolyU_sub" / f"{camera}_{n}_{ending}.jpg")
    for camera in ("nikon", "iphone"):
        for ending in ("lr", "gt"):
            save(crop(9), val / "City100_sub" / f"{camera}_001_{ending}.webp")
    return path


# --- photos -----------------------------------------------------------------------------------------------------------


def test_a_name_has_the_same_part_in_every_run() -> None:
    """Python's own hash() differs from run to run; these were written down."""
    known = {
        "100007.jpg": "test_2",
        "0982.webp": "test_1",
        "img_013_SRF_8_HR.webp": "calibration",
        "w014.webp": "test_2",
        "0905.webp": "test_1",
        "384022.jpg": "calibration",
    }
    assert {name: part_of(name) for name in known} == known
    counted = Counter(part_of(f"{n}.jpg") for n in range(6000))
    assert counted["calibration"] == pytest.approx(4000, abs=120)
    assert counted["test_1"] == pytest.approx(1000, abs=100)
    assert sum(counted.values()) == sum(counted[part] for part in ("calibration", "test_1", "test_2"))


def test_every_undamaged_photo_is_in_one_part_but_for_targets_of_rain(root: Path) -> None:
    targets = {path.name for path in rain_targets(root)}
    assert targets == {"3.jpg", "5.jpg"}  # of 24, one turned and mirrored, all compressed twice
    members = {part: [item.path for item in photos_of(root, part)] for part in PARTS}
    proving = [path for part in PARTS[1:] for path in members[part]]
    assert len(proving) == len(set(proving)) == 48 - 2
    assert not targets & {path.name for path in proving if path.parent.name == "bsds500"}
    assert all(part_of(path.name) == part for part in PARTS[1:] for path in members[part])
    assert {path.parent.parent.name for path in proving} == {"research"}
    assert {path.parent.parent.name for path in members["development"]} == {"val"}


def test_what_carries_jpeg_noise_is_reduced_and_nothing_else(root: Path) -> None:
    sizes = {}
    for part in PARTS:
        for item in photos_of(root, part):
            image = item.load()
            assert torch.equal((image * 255).round() / 255, image), "8 bits"
            sizes.setdefault(item.set, set()).add(tuple(image.shape[-2:]))
    halved = {name for name, found in sizes.items() if found == {(24, 32)}}
    assert halved == {"bsds500", "sunhays80", "CBSD68"}
    assert all(found == {(48, 64)} for name, found in sizes.items() if name not in halved)


def test_the_first_photos_of_a_part_are_of_all_its_sets(root: Path) -> None:
    assert len({item.set for item in photos_of(root, "calibration")[:16]}) == 4


def test_what_is_not_there_gets_a_sentence(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConservatorError, match="Rain100H_sub is not there; give the folder that holds train/research"):
        photos_of(tmp_path, "test_1")  # targets that cannot be compared are not passed over
    with pytest.raises(ConservatorError, match="CBSD68 is not there"):
        photos_of(tmp_path, "development")
    with pytest.raises(NameNotFoundError, match="test_1"):
        photos_of(root, "test1")
    with pytest.raises(ConservatorError, match="no pairs in test_2; choose from development, calibration, test_1"):
        pairs_of(root, "test_2")


@pytest.mark.slow
def test_the_real_sets(shared: Path) -> None:
    """Of the 22 targets of rain that are there 17 lie in bsds500; no other photo looks like one of them."""
    root = shared / "data"
    assert len(rain_targets(root)) == 17
    counts = {part: len(photos_of(root, part)) for part in PARTS}
    assert sum(counts.values()) - counts["development"] == 400 + 100 + 80 + 21 - 17
    assert counts["development"] == 117
    assert {part: len(pairs_of(root, part)) for part in PARTS[:3]} == {
        "development": 34,
        "calibration": 43,
        "test_1": 29,
    }
    assert len({pair.scene for pair in pairs_of(root, "calibration")}) == 22  # PolyU's 29 are of eight photographs
    undamaged = {part: len(make_cases("clean", root, 0, None, part)) for part in ("development", "calibration")}
    assert undamaged["development"] >= 60
    assert undamaged["calibration"] >= 200


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_sets_of_pairs_are_in_the_parts_where_they_belong(root: Path) -> None:
    found = {part: sorted({(pair.set, pair.name) for pair in pairs_of(root, part)}) for part in PARTS[:3]}
    assert [name for name, _ in found["development"]] == [
        "FiveK9",
        "Rain100H_sub",
        "Rain100H_sub",
        "RainFu_sub",
        "RainFu_sub",
        "SOTS_indoor_sub",
    ]
    assert found["calibration"] == [
        ("City100_sub nikon", "nikon_001"),
        ("Nam_sub 01 to 06", "01_noise"),
        ("Nam_sub 01 to 06", "06_noise"),
        ("PolyU_sub Canon5D2", "Canon5D2_5_160_desk_1"),
        ("PolyU_sub Canon5D2", "Canon5D2_5_160_desk_2"),
    ]
    assert found["test_1"] == [
        ("City100_sub iphone", "iphone_001"),
        ("Nam_sub 07 to 12", "07_noise"),
        ("Nam_sub 07 to 12", "12_noise"),
        ("PolyU_sub Canon80D", "Canon80D_8_8_ball_1"),
        ("PolyU_sub Canon80D", "Canon80D_8_8_ball_2"),
    ]
    scenes = {pair.name: pair.scene for pair in pairs_of(root, "calibration")}
    assert scenes["Canon5D2_5_160_desk_1"] == scenes["Canon5D2_5_160_desk_2"]
    assert scenes["01_noise"] != scenes["06_noise"]
    assert {known.part for known in PAIR_SETS} == set(PARTS[:3])


LAYOUTS = {
    "subfolders": ("noisy/1_x.png", "GT/1_gt.png"),
    "other words": ("hazy/a.png", "label/b.png"),
    "lq": ("desk_1_lq.png", "desk_1_gt.png"),
    "lr": ("desk_1_lr.png", "desk_1_gt.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("added", "kept"), [(0, 0), (20, 10), (48, 0)])
def test_pairs_of_every_layout_are_loaded_the_right_way_round(
    layout: str, added: int, kept: int, tmp_path: Path
) -> None:
    """The undamaged photo may have a frame (20 pixels more a side in all), or be twice as large (48 of 48)."""
    damaged, undamaged = (tmp_path / name for name in LAYOUTS[layout])
    whole = COFFEE[:48, :48] if added == 0 else COFFEE[: 48 + added, : 48 + added]
    save(COFFEE[:48, :48] // 2, damaged)
    save(whole, undamaged)
    (pair,) = find_pairs(tmp_path)
    assert (pair.damaged, pair.undamaged) == (damaged, undamaged)
    spoilt, clean = pair.load()
    assert float(spoilt.mean()) < float(clean.mean())
    expected = whole[kept : len(whole) - kept, kept : len(whole) - kept]
    assert torch.equal(clean, torch.from_numpy(expected.astype(np.float32) / 255).permute(2, 0, 1)[None])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("a_lq.png",), "a_lq.png has no partner a_gt.png"),
        (("a.png",), "holds no pairs: it has no subfolders input or noisy"),
        (("input/a.png",), "has no subfolder target or GT"),
        (("GT/a.png",), "has no subfolder input or noisy"),
        (("input/a.png", "input/b.png", "target/a.png"), "holds 2 photos and .* 1, expected as many"),
    ],
)
def test_what_is_no_pair_gets_a_sentence(names: tuple[str, ...], told: str, tmp_path: Path) -> None:
    for name in names:
        save(crop(1), tmp_path / name)
    with pytest.raises(ConservatorError, match=told):
        find_pairs(tmp_path)


def test_real_pairs_are_cases_of_their_set(root: Path) -> None:
    cases = make_cases("real", root, 0, None, "calibration")
    assert Counter(case.combination for case in cases) == {
        "PolyU_sub Canon5D2": 2,
        "Nam_sub 01 to 06": 2,
        "City100_sub nikon": 1,
    }
    assert len(make_cases("real", root, 0, 1, "calibration")) == 3  # one of each set
    assert all(len(case.files) == 2 and case.referenced for case in cases)
    with pytest.raises(ConservatorError, match="say which: development, calibration or test_1"):
        make_cases("real", root, 0)
    for name in ("pairs", "unpaired"):
        with pytest.raises(ConservatorError, match="no part"):
            make_cases(name, root, 0, None, "calibration")


# --- undamaged pictures -----------------------------------------------------------------------------------------------


def clean(root: Path, part: str, seed: int = 0, limit: int | None = None) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = {}
    for case in make_cases("clean", root, seed, limit, part):
        found.setdefault(case.combination, []).append(case)
    return found


def made(case: Case) -> Image:
    damaged, reference = case.make()
    assert reference is not None
    assert torch.equal(damaged, reference)
    return damaged


def test_undamaged_pictures_are_of_many_kinds_and_8_bits(root: Path) -> None:
    strata = clean(root, "calibration")
    assert {"photos", "black and white", "sepia", FILM_GRAIN, *DRAWINGS} <= strata.keys()
    for name in ("black and white", "sepia", FILM_GRAIN, "photos", *DRAWINGS):
        image = made(strata[name][0])
        assert torch.equal((image * 255).round() / 255, image), name
    gray, brown, plain = (made(strata[name][0]) for name in ("black and white", "sepia", "photos"))
    assert float((gray.amax(1) - gray.amin(1)).max()) < 1e-6
    assert float(brown[:, 0].mean()) > float(brown[:, 1].mean()) > float(brown[:, 2].mean())
    assert float((plain.amax(1) - plain.amin(1)).mean()) > 0.02


def test_each_photo_is_once_in_colour_and_once_in_one_tone(root: Path) -> None:
    strata = clean(root, "calibration")
    colour = [case.photo for name in ("photos", "night and low key", "fog and low contrast", "snow and high key")
              for case in strata.get(name, [])]  # fmt: skip
    tones = [case.photo for name in ("black and white", "sepia") for case in strata[name]]
    assert sorted(colour) == sorted(tones) == sorted(set(tones))  # under one name, so that they are drawn together
    assert {case.photo for case in strata[FILM_GRAIN]} <= set(colour)


@pytest.mark.parametrize(
    ("stratum", "change"),
    [
        ("night and low key", lambda picture: picture * 0.25),
        ("fog and low contrast", lambda picture: 0.55 + 0.2 * picture),
        ("snow and high key", lambda picture: 0.35 + 0.9 * picture.mean(2, keepdims=True) + 0 * picture),
        ("photos", lambda picture: picture),
    ],
)
def test_photos_are_told_apart_by_their_light(stratum: str, change: object, root: Path, tmp_path: Path) -> None:
    for name in ("CBSD68", "CID22_val", "LIVE1_10", "Set14", "Set5"):
        picture = change(COFFEE[100:196, 200:328] / 255)  # type: ignore[operator]
        save((255 * picture.clip(0, 1)).astype(np.uint8), tmp_path / "val" / name / "a.png")
    assert len(clean(tmp_path, "development")[stratum]) == 5


def test_grain_is_on_the_photo_and_gray(root: Path) -> None:
    strata = clean(root, "calibration")
    case = strata[FILM_GRAIN][0]
    item = next(item for item in photos_of(root, "calibration") if f"{item.set}/{item.name}" == case.photo)
    grain = made(case) - item.load()
    assert 0.003 < float(grain.std()) < 0.06
    assert float((grain.amax(1) - grain.amin(1)).median()) <= 1.01 / 255  # the same in all channels, but for rounding


def test_drawings_differ_between_parts_numbers_and_seeds_and_are_the_same_again(root: Path) -> None:
    ours, again = (clean(root, "calibration", seed=4) for _ in range(2))
    others = clean(root, "test_1", seed=4), clean(root, "calibration", seed=5)
    for name in DRAWINGS:
        first = made(ours[name][0])
        assert first.shape == (1, 3, 480, 640)
        assert torch.equal(first, made(again[name][0]))
        for other in (ours[name][1], *(found[name][0] for found in others)):
            assert float((first - made(other)).abs().max()) > 0.02, name
    assert len({case.photo for name in DRAWINGS for case in ours[name]}) == 12 * len(DRAWINGS)


def test_a_limit_is_of_each_stratum(root: Path) -> None:
    strata = clean(root, "calibration", limit=1)
    assert {len(found) for found in strata.values()} == {1}
    assert len(strata) >= 12


def test_mixtures_may_be_of_a_part(root: Path) -> None:
    cases = make_cases("mio", root, 0, 2, "test_1")
    names = {f"{item.set}/{item.name}" for item in photos_of(root, "test_1")[:2]}
    assert len(cases) == 32
    assert {case.photo for case in cases} == names
    damaged, undamaged = cases[0].make()
    assert undamaged is not None
    assert not torch.equal(damaged, undamaged)


# --- openings ---------------------------------------------------------------------------------------------------------


def test_a_test_part_opens_with_a_reason_and_a_line_for_the_page() -> None:
    for part in (None, "development", "calibration"):
        assert opening(part, None, "command") is None
        with pytest.raises(ConservatorError, match="is for the test parts"):
            opening(part, "why", "command")
    for part in ("test_1", "test_2"):
        for why in (None, "", "  "):
            with pytest.raises(ConservatorError, match=f"{part} is a test part.*--open"):
                opening(part, why, "command")
    line = opening("test_1", "the final\ntable | harm", "conservator bench real data") or ""
    assert re.fullmatch(
        r"\| \d{4}-\d\d-\d\d \| test_1 \| \w*\+? \| `conservator bench real data` \| the final table \\\| harm \|", line
    )
    page = Path(parts.__file__).parents[3] / "docs" / "results" / "openings.md"
    head = next(row for row in page.read_text("utf-8").splitlines() if row.startswith("| date"))
    assert len(re.findall(r"(?<!\\)\|", line)) == head.count("|")


def test_a_folder_of_test_photos_is_an_opening_too(root: Path, tmp_path: Path) -> None:
    val, research = root / "val", root / "train" / "research"
    opened = [*(val / "PolyU_sub").glob("Canon80D*"), *(val / "Nam_sub").rglob("07_*")]
    opened += [*(val / "City100_sub").glob("iphone*")]
    assert len(opened) == 4 + 2 + 2
    assert {opened_part([path]) for path in opened} == {"test_1"}
    closed = [*(val / "PolyU_sub").glob("Canon5D2*"), *(val / "Nam_sub").rglob("06_*"), *val.glob("CBSD68/*")]
    assert {opened_part([path]) for path in closed} == {None}
    assert {opened_part([path]) or "calibration" for path in research.rglob("*.*")} == set(PARTS[1:])
    assert opened_part([tmp_path / "Canon80D_1_lq.jpg"]) is None  # somebody's own folder
    for command in (
        ("bench", "pairs", "--photos", val / "PolyU_sub", "--policies", "none", "-o", tmp_path / "out"),
        ("bench", "lway", val / "City100_sub", "--pairs", "--prefix", "iphone", "-o", tmp_path / "out"),
    ):
        refused = conservator(*command)
        assert refused.returncode == 2
        assert "test_1 is a test part" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_opens_a_test_part_only_with_a_reason(root: Path, tmp_path: Path) -> None:
    asked = [*("bench", "real", root, "--part", "test_1", "-o", tmp_path / "out", "--policies", "none")]
    asked += ["--toolbox", "classical", "--perception", "statistics", "--risk", 1, "--threads", 1]
    refused = conservator(*asked)
    assert refused.returncode == 2
    assert "test_1 is a test part" in refused.stderr
    assert not (tmp_path / "out").exists()
    opened = conservator(*asked, "--open", "a final table")
    assert opened.returncode == 0, opened.stderr
    assert re.search(r"openings.md:\n\| .* \| test_1 \| .* --part test_1 .* \| a final table \|\n", opened.stdout)
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "part test_1, perception: statistics" in summary
    assert f"`conservator bench real {'/'.join(root.parts[-2:])} --part test_1" in summary
    rows = (tmp_path / "out" / "results.csv").read_text()
    assert "PolyU_sub/Canon80D_8_8_ball" in rows, "the photograph that the parts are of"
    assert "| none | 5 | 4 |" in summary
