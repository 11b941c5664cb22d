"""The command line as a user meets it: exit codes, sentences, files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from skimage import data

from conservator.apps.cli import main
from conservator.perception import StatisticalPerception
from conservator.tools import Tool


def conservator(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its exit code, in this process, which has torch and the models already."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patched,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patched.setattr(sys, "argv", ["conservator", *map(str, arguments)])
        if cwd is not None:
            patched.chdir(cwd)
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def process(*arguments: object) -> list[str]:
    """The command line that runs a command in a process of its own."""
    return [sys.executable, "-c", "from conservator.apps.cli import main; main()", *map(str, arguments)]


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "coffee.png"
    PillowImage.fromarray(data.coffee()[:320, :400]).save(path)
    return path


def test_help_names_every_command() -> None:
    result = subprocess.run(process("--help"), capture_output=True, text=True, check=False)
    assert result.returncode == 0
    for command in ("restore", "examine", "degrade", "compare", "replay", "tools", "mcp"):
        assert command in result.stdout


def test_help_and_import_load_nothing_heavy() -> None:
    code = (
        "import sys, conservator, conservator.apps.cli; "
        "heavy = {'torch', 'scipy', 'skimage', 'ray', 'transformers', 'spandrel', 'torchvision', 'PIL', 'mcp'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_degrade_examine_restore_compare_replay(photo: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.png"
    result = conservator("degrade", photo, "--recipe", "noise:high,jpeg:low", "--seed", 3, "-o", damaged)
    assert result.returncode == 0, result.stderr
    recipe = json.loads((tmp_path / "damaged.recipe.json").read_text())
    assert "gaussian_noise" in json.dumps(recipe)
    again = tmp_path / "again.png"
    conservator("degrade", photo, "--recipe", tmp_path / "damaged.recipe.json", "-o", again)
    assert again.read_bytes() == damaged.read_bytes()

    result = conservator("examine", damaged, "--toolbox", "classical")
    assert result.returncode == 0, result.stderr
    assert "noise" in result.stdout
    assert "█" in result.stdout
    seen = json.loads(conservator("examine", "--json", damaged, "--policy", "none").stdout)
    assert seen["severities"]["noise"] != "none"

    out = tmp_path / "out.png"
    result = conservator("restore", damaged, "-o", out, "--report", "--toolbox", "classical")
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "out.conservator.json").read_text())
    assert record["toolchain"]
    assert record["request"]["policy"] == "greedy"
    page = (tmp_path / "out.conservator.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 3
    assert "http" not in page.replace("http-equiv", "")

    def rms(path: Path) -> float:
        difference = np.asarray(PillowImage.open(path), float) - np.asarray(PillowImage.open(photo), float)
        return float(np.sqrt((difference**2).mean()))

    assert rms(out) < 0.8 * rms(damaged)
    result = conservator("compare", out, photo)
    assert result.returncode == 0, result.stderr
    assert "psnr_y" in result.stdout
    assert "same result to the byte" in conservator("replay", tmp_path / "out.conservator.json").stdout


def test_a_clean_photo_comes_back_untouched(photo: Path, tmp_path: Path) -> None:
    result = conservator("restore", photo, "-o", tmp_path / "out.png", "--toolbox", "classical")
    assert result.returncode == 0, result.stderr
    assert "left untouched" in result.stdout
    before, after = (np.asarray(PillowImage.open(p)) for p in (photo, tmp_path / "out.png"))
    assert np.array_equal(before, after)


def test_a_terminal_of_few_letters_stops_nothing(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("no photo")
    few = os.environ | {"PYTHONIOENCODING": "cp1252"}
    command = process("restore", photo, tmp_path / "words.png", "-o", tmp_path / "out", "--policy", "none")
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=few)
    assert result.returncode == 1, result.stderr
    assert (tmp_path / "out" / "coffee.png").read_bytes() == photo.read_bytes()


def test_one_bad_file_does_not_stop_an_examination(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("no photo")
    result = conservator("examine", tmp_path / "words.png", photo)
    assert result.returncode == 1
    assert f"cannot read {tmp_path / 'words.png'}" in result.stdout
    assert "coffee.png: no damage seen; would be left untouched" in result.stdout
    assert "1 cannot be restored; nothing was written" in result.stdout.replace("\n ", "")


def test_the_recipe_of_another_photo_is_not_replaced(photo: Path, tmp_path: Path) -> None:
    assert conservator("degrade", photo, "-r", "noise", "-o", tmp_path / "bad.png").returncode == 0
    result = conservator("degrade", photo, "-r", "rain", "-o", tmp_path / "bad.jpg")
    assert (result.returncode, (tmp_path / "bad.jpg").exists()) == (2, False)
    assert "bad.recipe.json exists already" in result.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["restore", "missing.jpg"], "missing.jpg: there is no such file or folder"),
        (["restore", "{photo}", "--policy", "greddy"], "did you mean greedy"),
        (["restore", "{photo}", "--policy", "oracle"], "for benchmarks only"),
        (["restore", "{photo}", "--toolbox", "clasical"], "did you mean classical"),
        (["restore", "{photo}", "-o", "x.xyz/y.png", "--max-pixels", "9"], "coffee.png"),
        (["examine", "missing.jpg"], "missing.jpg"),
        (["restore", "{photo}", "--device", "cuda:99"], "the device cuda:99 cannot be used here"),
        (["restore", "{photo}", "--format", "heic"], "cannot be written as .heic"),
        (["degrade", "{photo}", "-r", "snoww", "-o", "x.png"], "snoww"),
        (["compare", "{photo}", "{photo}", "--metrics", "pnsr"], "did you mean psnr"),
        (["replay", "missing.json"], "missing.json"),
        (["tools", "list", "--toolbox", "nothing"], "no toolbox 'nothing'"),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_2(
    arguments: list[str], words: str, photo: Path, tmp_path: Path
) -> None:
    result = conservator(*(a.format(photo=photo) for a in arguments), cwd=tmp_path)
    text = result.stdout + result.stderr
    assert result.returncode == 2, text
    assert words in text.replace("\n", " ")
    assert "Traceback" not in text


@pytest.mark.parametrize(("command", "jobs", "share"), [("restore", 2, 2), ("restore", 8, 2), ("examine", 2, 2)])
def test_photos_at_the_same_time_share_the_cores(
    command: str, jobs: int, share: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, found = tmp_path / "scans", dict[str, set[int]](grades=set(), tools=set())
    scans.mkdir()
    for number in range(2):
        noisy = data.coffee()[:96, :128] + np.random.default_rng(number).normal(0, 25, (96, 128, 3))
        PillowImage.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(scans / f"{number}.png")

    def counted(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*given: Any) -> Any:
            found[what].add(torch.get_num_threads())
            return call(*given)

        return counting

    monkeypatch.setattr(StatisticalPerception, "grade", counted("grades", StatisticalPerception.grade))
    monkeypatch.setattr(Tool, "__call__", counted("tools", Tool.__call__))
    torch.set_num_threads(5)
    quick = ("--policy", "greedy", "--toolbox", "classical", "--perception", "statistics", "--risk", 1)
    where = ("-o", tmp_path / "out") if command == "restore" else ()
    done = conservator(command, scans, "--jobs", jobs, *where, *quick)
    assert done.returncode == 0, done.stderr
    assert found == {"grades": {share}, "tools": {share}}
