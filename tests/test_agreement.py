"""Whether feedback agrees with references, and what is kept of a gain, on figures that can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from skimage import data
from test_cli import conservator

from conservator.errors import ConservatorError
from conservator.evaluation.agreement import StateScores, agreement_table, score_states
from conservator.evaluation.cases import make_cases
from conservator.evaluation.intervals import interval, statistic_interval
from conservator.evaluation.kept import kept_table
from conservator.evaluation.rows import BenchmarkRow
from conservator.image import Image
from conservator.metrics import FullReference, make_metric
from conservator.tools import make_toolbox


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("astronaut", "coffee"):
        PillowImage.fromarray(getattr(data, name)()[:160, :160]).save(folder / f"{name}.png")
    return folder


def test_the_interval_of_a_mean_is_that_of_a_statistic() -> None:
    rng = np.random.default_rng(0)
    values, origins = rng.normal(3, 1, 60), [f"photo {i // 3}" for i in range(60)]
    found = statistic_interval(lambda rows: float(values[rows].mean()), origins)
    assert found == pytest.approx(interval(values, origins=origins))
    assert all(np.isnan(statistic_interval(lambda rows: 1.0, origins[:15]))), "five photos are too few"


def test_states_are_scored_by_references_and_by_what_sees_none(photos: Path) -> None:
    tools = make_toolbox("classical").only("wavelet_denoise", "gamma_brighten")
    metric = make_metric("psnr")
    assert isinstance(metric, FullReference)
    seen: list[Image] = []

    def rate(image: Image) -> float:
        seen.append(image)
        return float(len(seen))

    def scored() -> list[StateScores]:
        seen.clear()
        paths = {path.stem: path for path in sorted(photos.iterdir())}
        return list(score_states(paths, tools, {"counting": rate}, [metric], 0, 3))

    found = scored()
    assert [(one.photo, one.makes) for one in found] == [
        (name, makes) for name in ("astronaut", "coffee") for makes in ("protocol", "held out")
    ]
    assert all(len(one.truth["psnr"]) == len(one.said["counting"]) in (2, 3) for one in found)
    assert all(np.ptp(one.truth["psnr"]) > 0 for one in found)
    assert sum(len(one.said["counting"]) for one in found) == len(seen)
    assert all(np.array_equal(a.truth["psnr"], b.truth["psnr"]) for a, b in zip(found, scored(), strict=True))


def scores(photo: int, makes: str, truth: list[float], said: list[float]) -> StateScores:
    return StateScores(f"photo {photo}", makes, {"psnr": np.array(truth)}, {"a rater": np.array(said)})


def test_within_and_across_photos_are_two_questions() -> None:
    """A rater that ranks each photo's states rightly, and photos wrongly."""
    found = [scores(i, "protocol", [10.0 * i, 10.0 * i + 1, 10.0 * i + 2], [-9.0 * i, 1 - 9.0 * i, 2 - 9.0 * i])
             for i in range(8)]  # fmt: skip
    found += [scores(i, "held out", [1.0, 2.0, 3.0], [3.0, 2.0, np.nan]) for i in range(8)]
    lines = agreement_table(found)
    (protocol, held_out) = (line for line in lines if line.startswith("| a rater"))
    within, across = (cell.strip() for cell in protocol.split("|")[2:4])
    assert within == "+1.00"
    assert float(across.split()[0]) < -0.9
    assert across.count(",") == 1, "with an interval by photo"
    assert held_out.split("|")[2].strip() == "-1.00", "what it cannot tell is left out"
    assert "8 photos, 24 states." in lines
    with pytest.raises(ConservatorError, match="no photos"):
        agreement_table([])


def row(setting: str, photo: str, policy: str, gain: float) -> BenchmarkRow:
    return BenchmarkRow(
        group=setting, combination="noise", photo=photo, policy=policy, toolchain="", calls=0, treatments=0,
        examining=0.0, deciding=0.0, treating=0.0, scores={"psnr_in": 20.0, "psnr": 20.0 + gain},
    )  # fmt: skip


def test_what_is_kept_is_a_ratio_of_gains_on_the_same_cases() -> None:
    rows = [row(s, f"photo {i}", "control", 4.0) for s in ("1", "2") for i in range(8)]
    rows += [row("1", f"photo {i}", "ours", 4.0) for i in range(8)]
    rows += [row("2", f"photo {i}", "ours", 2.0 if i % 2 else 4.0) for i in range(8)]
    _, _, first, second, together = kept_table(rows, "ours", "control")
    assert first == "| 1 | 8 | +4.00 | +4.00 | 100% (100%, 100%) |"
    assert second.startswith("| 2 | 8 | +3.00 | +4.00 | 75% (")
    assert 50 <= int(second.split("(")[1].split("%")[0]) < 75
    assert together.startswith("| all | 16 | +3.50 | +4.00 | 88% (")
    with pytest.raises(ConservatorError, match="policy"):
        kept_table(rows, "ours", "controll")


def test_the_settings_are_a_benchmark_of_four_groups(photos: Path) -> None:
    cases = make_cases("settings", photos, 0)
    assert [(case.group, len(case.kinds or ())) for case in cases if case.photo == "coffee"] == [
        *(("1", 2) for _ in range(5)),
        *(("2", 2) for _ in range(3)),
        *(("3", 3) for _ in range(4)),
        *(("4", size) for size in (4, 4, 5)),
    ]
    damaged, clean = cases[0].make()
    assert clean is not None
    assert damaged.shape == clean.shape, "nothing makes a picture smaller"


def test_the_commands_write_tables(photos: Path, tmp_path: Path) -> None:
    asked = ["bench", "feedback", "--photos", str(photos), "--perception", "statistics", "--toolbox", "classical"]
    done = conservator(*asked, "--states", "2", "--threads", "1", "-o", str(tmp_path / "table.md"))
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "table.md").read_text()
    assert "| feedback | psnr, within a photo | psnr, across photos | ssim, within a photo |" in table
    assert {"| perception |", "| piqe |", "| noise |"} <= {line[: line.index("|", 1) + 1] for line in table.splitlines()
                                                           if line.startswith("| ")}  # fmt: skip
    assert "conservator bench feedback" in table
