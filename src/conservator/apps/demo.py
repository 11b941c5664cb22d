"""The sample that ``make run`` restores: one of scikit-image's photos, damaged by a recorded recipe."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from conservator.batch import FileRestorer, Job, Task
from conservator.batch.summary import split
from conservator.degradations import degrade, parse_recipe, save_recipe
from conservator.errors import ConservatorError
from conservator.image import to_image
from conservator.metrics.fidelity import psnr
from conservator.photo import Photo, load_photo, save_photo
from conservator.restorer import Restorer


def run_demo(folder: Path, recipe_text: str, seed: int) -> None:
    """Write the sample, its damaged version and recipe, the result, its record and report; print the gain.

    The picture sample_before_after.jpg shows both side by side.
    """
    from skimage import data

    console = Console(soft_wrap=True, highlight=False)
    clean = to_image(data.coffee())
    recipe = parse_recipe(recipe_text, seed)
    damaged = degrade(clean, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    save_photo(Photo(clean), folder / "sample_clean.png", overwrite=True)
    save_photo(Photo(damaged), folder / "sample_damaged.png", overwrite=True)
    save_recipe(recipe, folder / "sample_damaged.recipe.json")
    console.print(f"damaged the sample: {', '.join(step.kind.label for step in recipe)}")
    task = Task(folder / "sample_damaged.png", folder / "sample_restored.png")
    with Restorer() as restorer:
        outcome = FileRestorer(restorer, report=True)(Job(task, overwrite=True), lambda stage: None)
    if not outcome.output_sha256:
        raise ConservatorError(outcome.message)
    restored = load_photo(task.target).image
    before, after = psnr(damaged, clean), psnr(restored, clean)
    pair = torch.cat([damaged, torch.ones_like(damaged[..., :8]), restored], dim=3)
    save_photo(Photo(pair), folder / "sample_before_after.jpg", overwrite=True, quality=90)
    console.print(f"{outcome.message} ({split(outcome.stages)})")
    console.print(f"PSNR (RGB) before {before:.2f} dB, after {after:.2f} dB, gain {after - before:+.2f} dB")
    for what, path in (
        ("damaged", task.source),
        ("result", task.target),
        ("record", task.record),
        ("report", task.report),
    ):
        console.print(f"{what:8} {path}")
