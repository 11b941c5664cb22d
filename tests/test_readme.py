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


@pytest.fixture
def old_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A noisy photo old.jpg in the current folder."""
    noisy = data.coffee()[:300, :400] + np.random.default_rng(0).normal(0, 25, (300, 400, 3))
    PillowImage.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / "old.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_example_restores_a_photo(old_photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    block = next(b for b in BLOCKS if "restore_file" in b)
    exec(compile(block, "README", "exec"), {})
    assert PillowImage.open(old_photo / "new.png").size == (400, 300)
    assert "0 the photo" in capsys.readouterr().out


def test_own_tool_policy_and_metric_pass_the_public_checks_and_work_together(
    old_photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    block = next(b for b in BLOCKS if "check_tool" in b)
    (old_photo / "worked_example.py").write_text(block)
    monkeypatch.syspath_prepend(old_photo)
    module = importlib.import_module("worked_example")  # it checks what it defines, and restores old.jpg
    assert "('median_denoise',)" in capsys.readouterr().out
    noisy = torch.full((1, 3, 40, 40), 0.5)
    noisy[..., 20, 20] = 1.0
    assert torch.equal(module.MedianDenoise()(noisy), torch.full((1, 3, 40, 40), 0.5))
    assert module.mean_error(noisy, noisy * 0) > 127


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
