"""``conservator bench decisions``: what a decision of a policy costs beside perception."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conservator.apps.cli.bench import bench_app
from conservator.apps.cli.common import ThreadsOption


@bench_app.command("decisions")
def bench_decisions_command(
    photos: Annotated[Path, typer.Option(help="Folder of photos.", exists=True)],
    policies: Annotated[str, typer.Option(help="Policies, joined by commas.")] = "r1",
    limit: Annotated[int, typer.Option(min=1, help="Use the first photos only.")] = 4,
    company: Annotated[int, typer.Option(min=1, help="Sessions that are decided together.")] = 64,
    threads: ThreadsOption = 1,
) -> None:
    """Milliseconds of a decision for one session, and for each of many together; perception has seen the photos."""
    import torch

    from conservator.evaluation.decisions import decisions_table, time_decisions
    from conservator.perception.study import study
    from conservator.photo import find_photos, load_photo
    from conservator.policies import PolicyContext, make_policy
    from conservator.restorer import Restorer
    from conservator.session import Session

    torch.set_num_threads(threads)
    with Restorer() as restorer:
        tools, pool, seeing = restorer.toolbox, restorer.models, restorer.perception
        images = [study(load_photo(path).image) for path in find_photos(photos)[:limit]]
        observations = [Session(image, tools, pool, seeing).observe() for image in images]
        context = PolicyContext(pool, seeing, toolbox=tools)
        times = [time_decisions(make_policy(name, context), observations, company) for name in policies.split(",")]
    typer.echo("\n".join(decisions_table(times)))
