"""The README's examples run as they stand."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from skimage import data

README = (Path(__file__).resolve().parents[1] / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_python_api_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    block = next(b for b in BLOCKS if "restore_file" in b)
    assert block.count("\n") <= 12
    noisy = data.coffee()[:300, :400] + np.random.default_rng(0).normal(0, 25, (300, 400, 3))
    PillowImage.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / "old.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README", "exec"), {})
    assert PillowImage.open(tmp_path / "new.png").size == (400, 300)
    assert "0 the photo" in capsys.readouterr().out


def test_the_worked_example_of_a_tool_passes_the_public_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = next(b for b in BLOCKS if "check_tool" in b)
    (tmp_path / "worked_example.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("worked_example")  # its last line runs check_tool
    noisy = torch.full((1, 3, 40, 40), 0.5)
    noisy[..., 20, 20] = 1.0
    assert torch.equal(module.MedianDenoise()(noisy), torch.full((1, 3, 40, 40), 0.5))


def test_every_command_of_the_readme_exists() -> None:
    from typer.main import get_command

    from conservator.apps.cli import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert known
    assert set(re.findall(r"^conservator (\w+)", README, re.MULTILINE)) <= known


def test_the_files_that_the_readme_shows_exist() -> None:
    root = Path(__file__).resolve().parents[1]
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (root / target).is_file(), target
