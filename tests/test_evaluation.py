"""The bench: protocols on real pairs, sizes of networks, tables of perceptions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import BoxBlur
from PIL import Image as PillowImage
from skimage import data

from conservator.errors import ConservatorError
from conservator.evaluation.perception import Graded, bench_perception, grading_summary, reliability
from conservator.evaluation.quality import Assessed, balanced, bench_quality, quality_table
from conservator.evaluation.tool_protocols import PROTOCOLS
from conservator.evaluation.tools import bench_tools, fitting, score_tool, size, tool_report
from conservator.perception import NetworkPerception, StatisticalPerception
from conservator.tools import Toolbox, make_toolbox


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("CBSD68", "CID22_val"):
        (tmp_path / name).mkdir()
        PillowImage.fromarray(data.coffee()[:192, :256]).save(tmp_path / name / "coffee.png")
    for part in ("input", "target"):
        (tmp_path / "RainFu_sub" / part).mkdir(parents=True)
        PillowImage.fromarray(data.chelsea()[:100, :120]).save(tmp_path / "RainFu_sub" / part / "a.png")
    return tmp_path


def protocol(name: str):  # type: ignore[no-untyped-def]
    return next(p for p in PROTOCOLS if p.name == name)


def test_noise_of_sigma_25_is_what_it_says(folder: Path) -> None:
    row = score_tool(BoxBlur(), protocol("CBSD68 noise 25"), folder)
    assert row.images == 1
    assert 20.1 < row.psnr_in < 20.9  # 20.17 dB, and a little more for what is clipped
    assert row.psnr_out > row.psnr_in
    assert row.worst == pytest.approx(row.psnr_out - row.psnr_in)


def test_inputs_are_what_a_file_holds_but_for_the_noise_of_papers(folder: Path) -> None:
    for row in PROTOCOLS:
        if not row.name.startswith(("CBSD68", "CID22")):
            continue
        damaged, clean = next(iter(row.pairs(folder)))
        assert damaged.shape == clean.shape, row.name
        levels = 255 * damaged
        assert bool((levels == levels.round()).all()) == row.clipped, row.name
        assert (float(damaged.amin()) < 0) == (not row.clipped), row.name
    unclipped = score_tool(BoxBlur(), protocol("CBSD68 noise 50 unclipped"), folder)
    assert unclipped.psnr_in == pytest.approx(14.15, abs=0.05), "20 log10(255 / 50), nothing lost at black and white"
    assert unclipped.psnr_out > unclipped.psnr_in + 3


def test_no_protocol_opens_a_test_part() -> None:
    names = [row.name for row in PROTOCOLS]
    assert len(set(names)) == len(names)
    assert {row.make for row in PROTOCOLS} == {"trained", "held out", "real"}
    assert not [name for name in names if "Canon80D" in name or name in ("Nam_sub", "PolyU_sub")]


def test_pairs_are_chosen_by_camera_and_number(tmp_path: Path) -> None:
    picture = PillowImage.fromarray(data.coffee()[:64, :64])
    (tmp_path / "PolyU_sub").mkdir()
    for camera in ("Canon5D2", "Canon80D"):
        for end in ("lq", "gt"):
            picture.save(tmp_path / "PolyU_sub" / f"{camera}_1_{end}.png")
    for part in ("noisy", "GT"):
        (tmp_path / "Nam_sub" / part).mkdir(parents=True)
        for number in (5, 6, 7, 12):
            picture.save(tmp_path / "Nam_sub" / part / f"{number:02d}_x.png")
    assert len(list(protocol("PolyU_sub Canon5D2").pairs(tmp_path))) == 1
    assert len(list(protocol("Nam_sub 01 to 06").pairs(tmp_path))) == 2


def test_equal_pairs_have_the_best_score(folder: Path) -> None:
    from conservator.tools import Tool, ToolSpec

    class Nothing(Tool):
        spec = ToolSpec("nothing", protocol("RainFu_sub").removes, "Does nothing.", "none", "Apache-2.0")

        def restore(self, image):  # type: ignore[no-untyped-def]
            return image

    assert score_tool(Nothing(), protocol("RainFu_sub"), folder).psnr_out == 60


def test_a_missing_folder_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConservatorError, match="CBSD68"):
        score_tool(BoxBlur(), protocol("CBSD68 noise 25"), tmp_path)


def test_every_protocol_has_an_expert() -> None:
    toolbox = make_toolbox("conservator")
    for row in PROTOCOLS:
        assert fitting(row, toolbox), row.name


def test_the_report_is_markdown(folder: Path) -> None:
    lines: list[str] = []
    report = bench_tools(Toolbox(BoxBlur()), folder, "CID22 clean", lines.append)
    assert len(lines) == 1
    assert any(line.startswith("### CID22 clean (trained): 1 images") for line in report)


def test_size_counts_a_networks_work() -> None:
    tool = make_toolbox("conservator")["denoise_medium"]
    tool.setup("cpu")
    parameters, macs = size(tool)
    assert 1 < parameters < 4
    assert 10 < macs < 100


def test_summary_of_a_perfect_and_of_a_blind_perception() -> None:
    truth = np.zeros((4, 9), np.int64)
    truth[0, 1], truth[1, 2] = 3, 1
    perfect = Graded(truth, truth, (truth > 0).astype(float))
    assert (
        grading_summary(perfect)["f1"]
        == grading_summary(perfect)["exact set"]
        == grading_summary(perfect)["clean called clean"]
        == 1
    )
    assert grading_summary(perfect)["calibration error"] == 0
    blind = Graded(truth, np.zeros_like(truth), np.full((4, 9), 0.25))
    assert grading_summary(blind)["f1"] == grading_summary(blind)["exact set"] == 0
    assert reliability(blind) == [(0.25, pytest.approx(2 / 32), 32)]


@pytest.mark.slow
def test_a_perception_is_shown_every_combination(folder: Path) -> None:
    lines = bench_perception(
        {"statistics": StatisticalPerception.load()}, [folder / "CID22_val" / "coffee.png"], lambda line: None
    )
    assert lines[0] == "| | statistics |"
    assert any(line.startswith("| f1 |") for line in lines)


@pytest.mark.slow
def test_perception_tells_the_better_state_more_often_than_chance(tmp_path: Path) -> None:
    PillowImage.fromarray(data.coffee()[72:328, 150:406]).save(tmp_path / "coffee.png")
    lines = bench_quality(
        NetworkPerception.load(), [tmp_path / "coffee.png"], make_toolbox("experts"), print, 0, every=6
    )
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in lines[2:]}
    assert float(rows["perception, beside the input"][0].strip("%")) > 60
    assert set(rows) == {"perception, beside the input", "perception, alone", "piqe", "sharpness", "noise"}


def test_a_measure_that_says_nothing_earns_nothing() -> None:
    truth, same, none = np.array([0.0, 1.0, 2.0, 3.0]), np.zeros(4), np.full(4, np.nan)
    found = Assessed(truth, {"same": same, "none": none, "right": truth, "wrong": -truth})
    lines = {line.split(" | ")[0].strip("| "): line for line in quality_table([(found, False), (found, True)])[2:]}
    shares = {name: line.split(" | ")[1:4] for name, line in lines.items()}
    assert shares["same"] == ["50.0%", "50.0%", "0.00"]
    assert shares["right"] == ["100.0%", "100.0%", "1.00"]
    assert shares["wrong"] == ["0.0%", "0.0%", "-1.00"]
    assert shares["none"] == ["nan%", "nan%", "nan"]


def test_a_tool_that_fails_everywhere_is_last_and_stops_nothing(folder: Path) -> None:
    class Broken(BoxBlur):
        spec = dataclasses.replace(BoxBlur.spec, name="broken")

        def restore(self, image):  # type: ignore[no-untyped-def]
            return image[..., ::2]

    rows = [score_tool(tool, protocol("CBSD68 noise 25"), folder) for tool in (Broken(), BoxBlur())]
    assert (rows[0].images, rows[0].failures) == (0, 1)
    lines = tool_report(rows, {})
    assert lines[0].startswith("### CBSD68 noise 25 (trained): 1 images")
    assert [line.split("|")[1].strip() for line in lines[4:6]] == [BoxBlur.spec.name, "broken (1 failed)"]


def test_balanced_scores_are_in_deviations() -> None:
    scores = balanced([20.0, 22.0, 27.0], [0.5, 0.6, 0.9])
    assert scores.std() == pytest.approx(1)
    assert list(scores.argsort()) == [0, 1, 2]
