"""One picture of a training, made from what it leaves behind."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from test_r1_training import FEW, ground, rules, starts

from conservator.errors import ConservatorError
from conservator.image import to_array
from conservator.training.rl.episode import EpisodeRules
from conservator.training.rl.ppo import train_ppo
from conservator.training.rl.progress import draw_progress, keep_pictures
from conservator.training.rl.weighting import RunningScale

__all__ = ["rules"]


def test_it_shows_scores_and_photos_as_they_change(rules: EpisodeRules, tmp_path: Path) -> None:
    tree, actor_critic = ground(rules, starts(), tmp_path / "states")
    folder = tmp_path / "run"
    with pytest.raises(ConservatorError, match="no curve"):
        draw_progress(folder)
    weighting = RunningScale({"quality": 0.0, "psnr": 1.0, "cost": 0.05})
    keep = partial(keep_pictures, folder, tree, actor_critic)
    train_ppo(tree, actor_critic, weighting, folder, FEW, report=lambda _: None, keep=keep)
    kept = {path.name for path in (folder / "progress").iterdir()}
    columns = ("before", "00005", "00010", "undamaged")
    assert kept == {f"{column}-{i}.png" for column in columns for i in range(3)}, "three starts are held out"
    noisy, clean = tree.pair(tree.held_out[0])
    assert clean is not None
    shown = {name: np.asarray(PillowImage.open(folder / "progress" / f"{name}-0.png")) for name in columns}
    assert np.array_equal(shown["before"], to_array(noisy, np.uint8))
    assert np.array_equal(shown["undamaged"], to_array(clean, np.uint8))
    error = {name: np.square(shown[name] - shown["undamaged"].astype(float)).mean() for name in columns}
    assert error["00010"] < error["before"] / 2, "it learned to smooth"
    path = draw_progress(folder, "psnr")
    sheet = PillowImage.open(path)
    assert (sheet.format, sheet.size[0]) == ("WEBP", 4 * 144)
    first = np.asarray(sheet.convert("RGB"))
    top = sheet.size[1] - 3 * 144
    assert np.abs(first[top : top + 128, :128].astype(float) - shown["before"]).mean() < 12, "as it came, first"
    again = draw_progress(folder, "psnr").read_bytes()
    assert again == path.read_bytes()
    curve = (folder / "curve.csv").read_text().splitlines()
    (folder / "curve.csv").write_text("\n".join([curve[0], curve[2], curve[1]]) + "\n")
    other = np.asarray(PillowImage.open(draw_progress(folder, "psnr")).convert("RGB"))
    assert not np.array_equal(first[:top], other[:top]), "another curve, another drawing"


def test_a_picture_is_what_the_tools_leave_of_a_start(rules: EpisodeRules, tmp_path: Path) -> None:
    tree, _ = ground(rules, starts(), tmp_path)
    start, _ = tree.pair(0)
    tools = rules.toolbox
    found = tree.picture((0, ("darker", "smoother")))
    assert torch.allclose(found, tools["smoother"](tools["darker"](start)), atol=1e-6)
    assert torch.equal(tree.picture((0, ())), start)
