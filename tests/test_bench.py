"""The policy benchmark: fixed cases, resumable results, honest tables."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from skimage import data
from test_cli import conservator

from conservator.degradations import degrade, parse_recipe
from conservator.errors import ConservatorError, NameNotFoundError
from conservator.evaluation.cases import Case, make_cases
from conservator.evaluation.evaluate import evaluate
from conservator.evaluation.intervals import interval
from conservator.evaluation.rows import (
    BenchmarkRow,
    BenchmarkSettings,
    Content,
    claim_policies,
    claim_results,
    content_of,
    read_rows,
    read_settings,
)
from conservator.evaluation.tables import grids, share_of
from conservator.image import Image
from conservator.metrics import FullReference, NoReference, make_metric
from conservator.perception import StatisticalPerception
from conservator.photo import find_photos
from conservator.resample import bicubic_resize
from conservator.tools import make_toolbox


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos")
    PillowImage.fromarray(data.coffee()[:256, :320]).save(path / "coffee.png")
    return path


def test_results_of_a_model_are_not_taken_for_those_of_another_in_its_place(tmp_path: Path) -> None:
    model, file = tmp_path / "a: model", tmp_path / "agent.safetensors"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"1")
    file.write_bytes(b"1")
    names = [f"mllm:{model}", f"random_order:mllm-once:{model}", f"r1:{file}", "greedy", "search:12", "mllm"]
    output = tmp_path / "out"
    output.mkdir()
    claim_policies(output, names)
    claim_policies(output, ["rules"])
    claim_policies(output, names)
    (model / "model.safetensors").write_bytes(b"2")
    claim_policies(output, [f"r1:{file}", "greedy"])
    for name in names[:2]:
        with pytest.raises(ConservatorError, match="with other weights; give another output folder"):
            claim_policies(output, [name])


def test_cases_are_the_same_in_every_run(folder: Path) -> None:
    cases = make_cases("mio", folder, seed=3)
    assert len(cases) == 16
    assert len({case.name for case in cases}) == 16
    first, again = cases[0].make(), make_cases("mio", folder, seed=3)[0].make()
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], make_cases("mio", folder, seed=4)[0].make()[0])
    assert torch.equal((255 * first[0]).round(), 255 * first[0]), "what a file holds"
    assert len(make_cases("restoreagent", folder, seed=0)) == 7
    rivals = make_cases("all-in-one", folder, seed=0)
    assert [case.combination for case in rivals] == [
        *("noise+JPEG artefacts", "haze+noise", "haze+rain+noise", "haze+rain+noise+JPEG artefacts")
    ]


def test_a_clean_case_is_its_own_reference(folder: Path) -> None:
    (case,) = make_cases("clean", folder, seed=0)
    damaged, clean = case.make()
    assert clean is not None
    assert torch.equal(damaged, clean)


def test_photos_of_one_name_are_told_apart(folder: Path, tmp_path: Path) -> None:
    for path in ("a.png", "a.jpg", "b/a.png", "b/c.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        PillowImage.fromarray(data.coffee()[:64, :64]).save(tmp_path / path)
    assert [case.photo for case in make_cases("clean", tmp_path, seed=0)] == ["a.jpg", "a.png", "b/a.png", "c"]


def test_pairs_must_be_as_many(tmp_path: Path) -> None:
    for path in ("input/a.png", "input/b.png", "target/a.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        PillowImage.fromarray(data.coffee()[:64, :64]).save(tmp_path / path)
    with pytest.raises(ConservatorError, match=r"holds 2 photos and .* 1, expected as many"):
        make_cases("pairs", tmp_path, seed=0)


def test_pairs_keep_their_partners_whatever_the_limit(tmp_path: Path) -> None:
    for part, names in (("input", "ac"), ("target", "abc")):
        (tmp_path / part).mkdir()
        for name in names:
            PillowImage.fromarray(data.coffee()[:64, :64]).save(tmp_path / part / f"{name}.png")
    with pytest.raises(ConservatorError, match="2 photos"):
        make_cases("pairs", tmp_path, 0, limit=2)
    PillowImage.fromarray(data.coffee()[:64, :80]).save(tmp_path / "input" / "b.png")
    first, second = make_cases("pairs", tmp_path, 0, limit=2)
    assert first.make()[0].shape == (1, 3, 64, 64)
    with pytest.raises(ConservatorError, match="80x64 and 64x64 pixels, expected as many, or a multiple"):
        second.make()
    PillowImage.fromarray(data.coffee()[:32, :32]).save(tmp_path / "input" / "b.png")
    assert [image.shape[-1] for image in second.make() if image is not None] == [32, 64]


def test_other_photos_or_tools_are_another_run(folder: Path, tmp_path: Path) -> None:
    toolbox = make_toolbox("classical")
    photos = find_photos(folder)
    first = content_of(photos, folder, toolbox)
    assert content_of(find_photos(folder), folder, make_toolbox("classical")) == first
    assert content_of(photos[1:], folder, toolbox) != first
    assert content_of(photos, folder, toolbox.only("deblock")) != first
    weights, named = tmp_path / "tools.safetensors", f"classical+rl-restore:{tmp_path / 'tools.safetensors'}"
    weights.write_bytes(b"trained")
    before = content_of(photos, folder, toolbox, named)
    weights.write_bytes(b"trained again")
    assert content_of(photos, folder, toolbox, named) != before


def test_a_folder_of_results_says_what_differs(folder: Path, tmp_path: Path) -> None:
    content = content_of(find_photos(folder), folder, make_toolbox("classical"))
    settings = BenchmarkSettings("mio", "photos", "classical", "statistics", 0, risk=1.0)
    claim_results(tmp_path, settings, content)
    claim_results(tmp_path, settings, content)
    found, beside = read_settings(tmp_path)
    assert found == settings
    assert beside["photos"] == "/".join(folder.parts[-2:])
    assert beside["versions"]["torch"] == torch.__version__
    was = content.photos["coffee.png"][:8]
    with pytest.raises(ConservatorError, match=rf"photo coffee.png {was}, now 00; use the same"):
        claim_results(tmp_path, settings, replace(content, photos={"coffee.png": "00"}))
    with pytest.raises(ConservatorError, match=rf"photo coffee.png {was}, now not there"):
        claim_results(tmp_path, settings, replace(content, photos={}))
    with pytest.raises(ConservatorError, match="seed 0, now 1"):
        claim_results(tmp_path, replace(settings, seed=1), content)
    (tmp_path / "settings.json").write_text(json.dumps({"benchmark": "mio", "seed": 0}))
    with pytest.raises(ConservatorError, match="is not recorded"):
        claim_results(tmp_path, settings, Content())


@pytest.mark.parametrize("damage", ["", "noise:low"])
def test_the_oracle_enlarges_what_was_reduced(damage: str, coffee: Image, tmp_path: Path) -> None:
    clean = coffee[..., :256, :256]
    small = bicubic_resize(clean, 0.5).clamp(0, 1)
    damaged = degrade(small, parse_recipe(damage, 1)) if damage else small
    case = Case("x", "low resolution", "coffee", lambda: (damaged, clean))
    settings = BenchmarkSettings("mio", "photos", "conservator", "statistics", 0, risk=1.0)
    toolbox = make_toolbox("conservator").only("upscale_x2", "denoise_light")
    (row,) = evaluate([case], ["oracle"], toolbox, StatisticalPerception.load(), settings, tmp_path)
    assert "upscale_x2" in row.toolchain
    assert row.gain > 0.2
    assert row.calls >= 2, "it tried both tools on the study before it chose"


def test_a_metric_that_cannot_be_measured_is_none(tmp_path: Path) -> None:
    tiny = torch.rand(1, 3, 8, 40)
    case = Case("x", "clean", "tiny", lambda: (tiny, tiny))
    settings = BenchmarkSettings("clean", "photos", "classical", "statistics", 0, risk=1.0)
    (row,) = evaluate([case], ["none"], make_toolbox("classical"), StatisticalPerception.load(), settings, tmp_path)
    assert row.score("psnr") == 100
    assert math.isnan(row.score("ssim"))


def test_an_unknown_benchmark_and_an_empty_folder_get_a_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NameNotFoundError, match="mio"):
        make_cases("moi", folder, seed=0)
    with pytest.raises(ConservatorError, match="no photos"):
        make_cases("mio", tmp_path, seed=0)


def test_a_run_resumes_where_it_was_cut(folder: Path, tmp_path: Path) -> None:
    settings = BenchmarkSettings("mio", "photos", "classical", "statistics", 0, risk=1.0)
    quick = make_toolbox("classical").only("wavelet_denoise", "deblock", "gamma_brighten")
    toolbox, eye = quick, StatisticalPerception.load()
    cases = make_cases("mio", folder, seed=0)[:3]
    whole = evaluate(cases, ["none", "random"], toolbox, eye, settings, tmp_path / "whole")
    evaluate(cases[:2], ["none", "random"], toolbox, eye, settings, tmp_path / "cut")
    table = tmp_path / "cut" / "results.csv"
    table.write_text(table.read_text()[:-40])  # the last line is half written
    resumed = evaluate(cases, ["none", "random"], toolbox, eye, settings, tmp_path / "cut")

    def facts(rows: list[BenchmarkRow]) -> list[tuple[object, ...]]:
        return sorted((r.combination, r.policy, r.toolchain, *r.scores.items()) for r in rows)

    assert facts(resumed) == facts(whole)
    assert facts(read_rows(table, BenchmarkRow)) == facts(whole)
    assert all(row.gain == 0 for row in whole if row.policy == "none")
    other = BenchmarkSettings("mio", "photos", "classical", "statistics", 1, risk=1.0)
    with pytest.raises(ConservatorError, match="seed 0, now 1"):
        evaluate(cases, ["none"], toolbox, eye, other, tmp_path / "cut")


def row(policy: str, gain: float, photo: str, toolchain: str = "a", rank: float = math.nan) -> BenchmarkRow:
    return BenchmarkRow(
        group="A",
        combination="rain",
        photo=photo,
        policy=policy,
        toolchain=toolchain,
        calls=3,
        treatments=1,
        examining=0.1,
        deciding=0.2,
        treating=0.3,
        scores={"psnr_in": 20.0, "psnr": 20.0 + gain, "ssim_in": 0.5, "ssim": 0.6, "noise": 1.0},
        rank=rank,
    )


def lines_of(rows: list[BenchmarkRow]) -> list[str]:
    return [line for grid in grids(rows) for line in grid.markdown()]


def cells(lines: list[str], policy: str) -> dict[str, str]:
    """The first table's row of a policy, by heading."""
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return dict(zip(table[0], next(line for line in table if line[0] == policy), strict=True))


def test_the_table_tells_gain_harm_rank_and_the_oracles_share() -> None:
    rows = [row("oracle", 4, "x", rank=1), row("oracle", 2, "y", rank=0.9)]
    rows += [row("greedy", 2, "x", rank=0.5), row("greedy", -0.2, "y", "", rank=0.25)]
    greedy = cells(lines_of(rows), "greedy")
    assert greedy["gain, dB (95 % CI)"].startswith("+0.90")
    assert greedy["of oracle's"] == "30%"  # of 3 dB
    assert greedy["rank"] == "37.5%"
    harm = [greedy[heading] for heading in ("treated", "0.1 dB worse", "0.5 dB worse", "worst, dB")]
    assert harm == ["50.0% (1.3, 98.7)", "50.0% (1.3, 98.7)", "0.0% (0.0, 84.2)", "-0.20: y"]


def test_the_oracles_share_is_of_the_cases_that_both_have() -> None:
    oracle = [row("oracle", 4, "x"), row("oracle", 2, "y")]
    assert share_of([row("greedy", 3, "x")], oracle) == 0.75
    assert math.isnan(share_of([row("greedy", 3, "z")], oracle))


def test_what_was_not_measured_has_no_column() -> None:
    lines = lines_of([row("greedy", 1, "x")])
    assert not any(word in line for line in lines for word in ("rank", "lpips", "dists", "nan"))


def test_a_metric_of_ones_own_has_its_columns(tmp_path: Path, coffee: Image) -> None:
    """Nothing but the values is written: rows, files and tables follow."""
    clean = coffee[..., :64, :64]
    case = Case("x", "clean", "tiny", lambda: (clean * 0.5, clean))
    far = FullReference("distance", higher_is_better=False, score=lambda a, b: float((a - b).abs().max()))
    bright = NoReference("brightness", higher_is_better=True, score=lambda image: float(image.mean()))
    settings = BenchmarkSettings("clean", "photos", "classical", "statistics", 0, risk=1.0)
    toolbox, eye = make_toolbox("classical"), StatisticalPerception.load()
    metrics = [make_metric("psnr"), far, bright]
    (row,) = evaluate([case], ["none"], toolbox, eye, settings, tmp_path, metrics=metrics)
    assert row.scores == {
        "psnr_in": row.score("psnr"),
        "psnr": pytest.approx(-10 * math.log10(float((clean * 0.5).square().mean())), abs=1e-4),
        "distance_in": row.score("distance"),
        "distance": pytest.approx(float(clean.max()) / 2, abs=1e-5),
        "brightness": pytest.approx(float(clean.mean()) / 2, abs=1e-5),
    }
    (read,) = read_rows(tmp_path / "results.csv", BenchmarkRow)
    assert replace(read, rank=0.0, value=0.0) == replace(row, rank=0.0, value=0.0)
    assert read_settings(tmp_path)[0].metrics == ("psnr", "distance", "brightness")
    (head,) = [grid.head for grid in grids([row], {m.name: m for m in metrics}) if grid.title.startswith("Every")]
    assert head == ("policy", "psnr", "distance ↓", "brightness")
    with pytest.raises(ConservatorError, match="distance"):
        evaluate([case], ["none", "rules"], toolbox, eye, settings, tmp_path)


def test_the_interval_holds_the_mean_and_shrinks_with_photos() -> None:
    few = np.random.default_rng(0).normal(1, 1, 20)
    many = np.tile(few, 25)
    low, high = interval(few)
    assert low < few.mean() < high
    assert interval(many)[1] - interval(many)[0] < (high - low) / 3


@pytest.mark.slow
def test_the_command_writes_its_tables(folder: Path, tmp_path: Path) -> None:
    result = conservator(
        *("bench", "clean", folder, "-o", tmp_path / "out", "--policies", "none,rules"),
        *("--toolbox", "classical", "--perception", "statistics", "--risk", "1"),
    )
    assert result.returncode == 0, result.stderr
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert f"--output {tmp_path.name}/out" in summary
    assert f"`conservator bench clean {'/'.join(folder.parts[-2:])} --policies none,rules" in summary
    assert "| none | 1 | 1 | 0.0% (0.0, 97.5) | 0.0% (0.0, 97.5) | 0.0% (0.0, 97.5) |" in summary
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["policy"] for r in rows] == ["none", "rules"]
    assert not any(math.isnan(float(r["psnr"])) for r in rows)
