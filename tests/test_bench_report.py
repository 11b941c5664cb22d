"""The benchmark's report, its commands, and a run that is killed: real runs on a small photo."""

from __future__ import annotations

import csv
import math
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image as PillowImage
from skimage import data
from test_cli import conservator, process

from conservator.apps.bench_report import save_bench_report
from conservator.apps.cli.bench import BENCHMARK_HELP
from conservator.apps.plots import Point, Scale, curves, rows_of_dots, scatter
from conservator.errors import ConservatorError
from conservator.evaluation import cases
from conservator.evaluation.cases import make_cases
from conservator.evaluation.evaluate import evaluate
from conservator.evaluation.rows import BenchmarkSettings
from conservator.perception import StatisticalPerception
from conservator.tools import make_toolbox

PHOTO = "a & <b>.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos")
    PillowImage.fromarray(data.coffee()[100:196, 200:328]).save(path / PHOTO)
    return path


@pytest.fixture(scope="module")
def results(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("results")
    toolbox = make_toolbox("classical").only("wavelet_denoise", "deblock", "gamma_brighten", "shift_brighten")
    names = [
        "none",
        "random_both",
        "predefined",
        "random_order:predefined",
        "random_tools:predefined",
        "oracle",
        "best",
    ]
    settings = BenchmarkSettings("restoreagent", folder.name, "classical", "statistics", 0, risk=1.0, rank="balanced")
    some = make_cases("restoreagent", folder, 0)[:2]
    evaluate(some, names, toolbox, StatisticalPerception.load(), settings, output)
    return output


class Balanced(HTMLParser):
    """Fails on a tag that is closed but not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_shows_plots_tables_and_examples_and_escapes(results: Path, folder: Path) -> None:
    page = save_bench_report(results, folder).read_text()
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "<b>" not in page
    assert "a &amp; &lt;b&gt;" in page
    drawings = re.findall(r'<svg viewBox="0.*?</svg>', page)
    assert len(drawings) == 3
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert "nan" not in re.sub(r"base64,[^\"]+", "", page)
    assert page.count("data:image/jpeg") >= 6
    assert not re.search(r'(src|href)="http', page)
    assert "of z-scores of psnr, ssim" in page
    assert "| best | 2 |" in (results / "summary.md").read_text()


def test_photos_without_reference_are_all_shown_and_do_not_tell_whose_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    photo = data.coffee()[100:196, 200:328]
    noise = np.random.default_rng(0).normal(0, 40, photo.shape)
    PillowImage.fromarray((photo * 0.3 + noise).clip(0, 255).astype(np.uint8)).save(folder / "noisy.png")
    toolbox = make_toolbox("classical").only("wavelet_denoise", "deblock", "gamma_brighten", "shift_brighten")
    settings = BenchmarkSettings("unpaired", folder.name, "classical", "statistics", 0, risk=1.0)
    names = ["none", "random_both", "predefined"]
    evaluate(make_cases("unpaired", folder, 0), names, toolbox, StatisticalPerception.load(), settings, tmp_path)
    with (tmp_path / "results.csv").open() as file:
        made = {row["toolchain"] for row in csv.DictReader(file)} - {""}
    assert made
    page = save_bench_report(tmp_path, folder).read_text()
    assert page.count("data:image/jpeg") == 1 + len(made)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert captions[-1 - len(made) :] == ["as it came", *"ABC"[: len(made)]]
    assert re.search(r"<details><summary>Whose they are</summary>A: .*predefined.*left as it came: none", page)


def test_the_verdict_compares_what_all_have_finished(results: Path, tmp_path: Path) -> None:
    cut = shutil.copytree(results, tmp_path / "cut")
    lines = (cut / "results.csv").read_text().splitlines()
    (cut / "results.csv").write_text("\n".join(lines[:-1]) + "\n")
    assert "strategies on 2 damaged photos. Without" in save_bench_report(results).read_text()
    assert "strategies on 1 damaged photos (1 that not all have finished left out). Without" in (
        save_bench_report(cut).read_text()
    )


def test_nothing_is_gained_where_nothing_is_wrong(folder: Path, tmp_path: Path) -> None:
    settings = BenchmarkSettings("clean", folder.name, "classical", "statistics", 0, risk=1.0)
    toolbox = make_toolbox("classical").only("deblock")
    evaluate(make_cases("clean", folder, 0), ["none"], toolbox, StatisticalPerception.load(), settings, tmp_path)
    page = save_bench_report(tmp_path).read_text()
    assert "on 1 clean photos." in page
    assert "Without a reference in hand" not in page


def test_best_ranks_first_and_the_ranks_are_shares(results: Path) -> None:
    with (results / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(0 <= float(row["rank"]) <= 1 for row in rows)
    assert all(float(row["rank"]) == 1 for row in rows if row["policy"] == "best")
    assert all(int(row["toolchains"]) > 1 and "lpips" not in row for row in rows)


def test_a_report_without_results_or_of_other_photos_gets_a_sentence(results: Path, tmp_path: Path) -> None:
    with pytest.raises(ConservatorError, match="output folder of a benchmark"):
        save_bench_report(tmp_path)
    PillowImage.fromarray(data.coffee()[:64, :64]).save(tmp_path / "other.png")
    with pytest.raises(ConservatorError, match="does not make"):
        save_bench_report(results, tmp_path)


def test_every_benchmark_is_a_command() -> None:
    assert BENCHMARK_HELP.keys() == cases.BENCHMARKS.keys()
    told = conservator("bench", "--help").stdout
    assert all(name in told for name in (*BENCHMARK_HELP, "tools", "perception", "report"))


@pytest.mark.parametrize("values", [[0.0], [-0.3, 0.02], [12345.0, 3.0], [1e-7], [5.0, 5.0]])
def test_a_scale_holds_its_values(values: list[float]) -> None:
    scale = Scale.of(values, 0, 100)
    assert all(0 <= scale(value) <= 100 for value in values)
    assert 2 <= len(scale.ticks) <= 12
    assert scale(scale.low) == pytest.approx(0)
    assert scale(scale.high) == pytest.approx(100)
    positive = [abs(value) + 0.001 for value in values]
    log = Scale.log(positive, 0, 100)
    assert all(0 <= log(value) <= 100 for value in positive)
    assert list(log.ticks) == sorted(set(log.ticks))


def test_plots_of_more_policies_than_colours_and_of_gaps() -> None:
    policies = [f"p{i}<" for i in range(13)]
    drawn = [
        rows_of_dots("t", "x", ["a"], {p: [math.nan if i == 1 else i] for i, p in enumerate(policies)}, policies),
        scatter("t", ("x", "y"), {p: Point(i, i, i, i) for i, p in enumerate(policies)}, policies),
        curves("t", ("x", "y"), {p: [0.5, 0.1] for p in policies}, policies),
    ]
    for figure in drawn:
        ElementTree.fromstring(figure)
        assert "nan" not in figure


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_tables(folder: Path, tmp_path: Path) -> None:
    arguments = [
        *("bench", "restoreagent", "--photos", str(folder), "--policies", "none,random_both,rules"),
        *("--toolbox", "classical", "--perception", "statistics", "--risk", "1", "--threads", "1", "-o"),
    ]
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    with subprocess.Popen(process(*arguments, cut), stdout=subprocess.DEVNULL) as running:
        while running.poll() is None:
            if (cut / "results.csv").exists() and (cut / "results.csv").read_text().count("\n") >= 6:
                break
            time.sleep(0.05)
        running.kill()
    before = (cut / "results.csv").read_text()
    assert before.count("\n") >= 6
    for output in (cut, whole):
        done = conservator(*arguments, output)
        assert done.returncode == 0, done.stderr
    assert (cut / "results.csv").read_text().startswith(before[: before.rfind("\n")])
    assert facts(cut) == facts(whole)
    assert len(facts(cut)) == 7 * 3


def facts(folder: Path) -> list[tuple[str, ...]]:
    """The results without the seconds, which no two runs share."""
    with (folder / "results.csv").open() as file:
        return [
            tuple(value for name, value in row.items() if name not in ("examining", "deciding", "treating"))
            for row in csv.DictReader(file)
        ]
