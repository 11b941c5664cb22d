"""``conservator bench feedback`` and ``bench kept``: what a reward is worth, and what is kept on unseen mixtures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conservator.apps.cli.bench import bench_app
from conservator.apps.cli.options import with_options
from conservator.commands import command_line, shown_path
from conservator.request import Request

if TYPE_CHECKING:
    from conservator.evaluation.agreement import Rater
    from conservator.perception import Perception

_METRICS = ("psnr", "ssim", "st_lpips")
"""What feedback is held against, each where it is installed."""


@dataclass(frozen=True)
class FeedbackBench:
    """What to hold against metrics with references."""

    photos: Path = field(metadata={"exists": True})
    """Folder of clean photos that nothing here was taught on."""
    model: tuple[str, ...] = ()
    """A vision-language model in Hugging Face format that rates pictures, a folder or an id; may be given again."""
    toolbox: str = "conservator"
    """Toolboxes, joined by +, that make the states."""
    perception: str = "perception"
    """Whose estimate of the quality is measured: perception or statistics, which ship, or a file of weights."""
    states: int = field(default=8, metadata={"min": 2})
    """States of each damaged photo."""
    limit: int | None = field(default=None, metadata={"min": 1})
    """Use the first photos only."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of damage and toolchains."""
    output: Path | None = None
    """Write the tables as Markdown."""
    threads: int = field(default=2, metadata={"min": 1})
    """Threads that compute."""
    why: str | None = None
    """Why a test part is opened, which is refused without a reason."""


@bench_app.command("feedback")
@with_options(FeedbackBench, "asked", flags={"output": "--output -o", "why": "--open"})
def bench_feedback_command(*, asked: FeedbackBench) -> None:
    """How well feedback without references agrees with PSNR, SSIM and ST-LPIPS: ranks within and across photos."""
    import torch

    from conservator.evaluation.agreement import agreement_table, score_states
    from conservator.evaluation.pairs import names_of
    from conservator.evaluation.parts import opened_part, opening
    from conservator.files import write_text
    from conservator.metrics import FullReference, make_metric, metrics_at_hand
    from conservator.photo import find_photos
    from conservator.restorer import Restorer

    torch.set_num_threads(asked.threads)
    files = find_photos(asked.photos)[: asked.limit]
    models = [part for name in asked.model for part in ("--model", name)]
    command = command_line(
        *("bench", "feedback", *models),
        photos=shown_path(asked.photos),
        toolbox=asked.toolbox,
        perception=asked.perception,
        states=asked.states,
        limit=asked.limit,
        seed=asked.seed,
        output=asked.output,
    )
    if opened := opening(opened_part(files), asked.why, command):
        typer.echo(f"Add this line to docs/results/openings.md:\n{opened}")
    metrics = [one for one in metrics_at_hand(map(make_metric, _METRICS)) if isinstance(one, FullReference)]
    with Restorer(Request(toolbox=asked.toolbox, perception=asked.perception)) as restorer:
        raters = _raters(asked.model, restorer.perception)
        found = []
        named = names_of(files, asked.photos)
        for one in score_states(named, restorer.toolbox, raters, metrics, asked.seed, asked.states):
            found.append(one)
            typer.echo(f"{len(found)} of {2 * len(files)}: {one.photo}, makes: {one.makes}")
    lines = agreement_table(found)
    typer.echo("\n".join(lines))
    if asked.output:
        write_text(asked.output, "\n".join(["# Feedback against references", "", f"`{command}`", "", *lines]) + "\n")


def _raters(models: tuple[str, ...], perception: Perception) -> dict[str, Rater]:
    """Each model by what it is shown, perception's estimate, and the metrics that need no reference."""
    import numpy as np

    from conservator.metrics import NO_REFERENCE, NoReference
    from conservator.policies.vision_language import load_model
    from conservator.training.rl.feedback import QualityRater

    def of_model(name: str) -> dict[str, Rater]:
        model = load_model(name)
        overview, crops = QualityRater(model, "overview").rate, QualityRater(model, "crops").rate
        both = lambda image: (overview(image) + crops(image)) / 2  # noqa: E731 - as QualityRater has it, asked once
        return {f"{name}, overview": overview, f"{name}, crops": crops, f"{name}, both": both}

    def alone(metric: NoReference) -> Rater:
        sign = 1 if metric.higher_is_better else -1
        return lambda image: sign * float(np.mean([metric.score(part) for part in image.split(1)]))

    found: dict[str, Rater] = {}
    for name in models:
        found |= of_model(name)
    found["perception"] = lambda image: perception.grade(image).quality
    return found | {metric.name: alone(metric) for metric in NO_REFERENCE}


@bench_app.command("kept")
def bench_kept_command(
    results: Annotated[Path, typer.Argument(help="Output folder of: conservator bench settings.", exists=True)],
    policy: Annotated[str, typer.Option(help="The policy that was trained on one setting.")],
    control: Annotated[str, typer.Option(help="The one that was trained as long, on all of them.")],
) -> None:
    """What a policy keeps of the gain of a control on each setting, with intervals by photo."""
    from conservator.evaluation.kept import kept_table
    from conservator.evaluation.rows import BenchmarkRow, read_rows

    lines = kept_table(read_rows(results / "results.csv", BenchmarkRow), policy, control)
    typer.echo("\n".join(lines))
