"""``conservator data``: build what planners learn from, and show it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Annotated, Any

import typer

data_app = typer.Typer(help="Build and show the data that planners learn from.", no_args_is_help=True)


@data_app.command("build")
def build_data(
    photos: Annotated[Path, typer.Option(help="Folder of clean photos, searched recursively.", exists=True)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the data; the same again resumes.")],
    count: Annotated[int, typer.Option(min=1, help="Damaged crops, about ten questions each.")] = 2000,
    toolbox: Annotated[str, typer.Option(help="Toolboxes, joined by +.")] = "conservator",
    always: Annotated[str | None, typer.Option(help="Kinds that every crop has, joined by commas: snow.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Damage crops, run every toolchain on each, and write down what is best in RestoreAgent's five situations."""
    from conservator.kinds import parse_kinds
    from conservator.training.planner import Plan, build

    kinds = parse_kinds(always) if always else frozenset()
    made = build(Plan(photos, output, count, toolbox, seed, kinds), jobs, typer.echo)
    page = show(output, 30)
    typer.echo(f"{made} questions in {output}; look at thirty of them in {page}")


@data_app.command("show")
def show_data(
    data: Annotated[Path, typer.Argument(help="A folder that 'data build' made.", exists=True)],
    count: Annotated[int, typer.Option(min=1, help="Questions on the page.")] = 30,
) -> None:
    """Write a page with some of the questions, evenly drawn, to look at."""
    typer.echo(show(data, count))


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Planner data</title>
<meta name="viewport" content="width=device-width">
<style>
:root {{ color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif }}
body {{ margin: 2rem auto; max-width: 76rem; padding: 0 1rem }}
article {{ display: grid; grid-template-columns: 16rem 1fr; gap: 1.2rem; padding: 1.2rem 0 }}
article {{ border-top: 1px solid #8886 }}
img {{ width: 100%; border-radius: 4px }}
h2 {{ margin: 0; font-size: 1rem }}
pre {{ white-space: pre-wrap; margin: .4rem 0; font-size: .85rem }}
.answer {{ font-weight: 600; color: #0a7d4f }}
small {{ opacity: .75 }}
details {{ font-size: .85rem }}
@media (max-width: 40rem) {{ article {{ grid-template-columns: 1fr }} }}
</style>
<h1>Planner data</h1><p>{shown} of {total} questions.</p>
{articles}
</html>
"""


def show(data: Path, count: int) -> Path:
    """Write ``index.html`` into a folder of data: every so many-th question with its picture and answer."""
    from conservator.files import write_text

    decisions, conversations = (_read(data / f"{name}.jsonl") for name in ("decisions", "conversations"))
    every = max(1, len(decisions) // count)
    pairs = list(zip(decisions, conversations, strict=True))[::every][:count]
    articles = "\n".join(_article(row, asked) for row, asked in pairs)
    page = data / "index.html"
    write_text(page, _PAGE.format(shown=len(pairs), total=len(decisions), articles=articles))
    return page


def _read(path: Path) -> list[dict[str, Any]]:
    from conservator.errors import ConservatorError

    if not path.exists():
        raise ConservatorError(f"{path} is not there; give a folder that 'conservator data build' made")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _article(row: dict[str, Any], asked: dict[str, Any]) -> str:
    pictures = "".join(f'<img src="{escape(path)}" alt="the photo now" loading="lazy">' for path in row["images"])
    system, question, answer = (turn["value"] for turn in asked["conversations"])
    others = "".join(f"<br>as good: {escape(', '.join(plan) or 'stop')}" for plan in row["alternatives"])
    values = _values(row["values"])
    return (
        f"<article><div>{pictures}</div><div><h2>{escape(row['situation'])}, {escape(row['objective'])}</h2>"
        f"<small>{escape(row['id'])}: {escape(', '.join(row['kinds']) or 'clean')}</small>"
        f"<pre>{escape(question)}</pre><pre class=answer>{escape(answer)}</pre><small>{values}{others}</small>"
        f"<details><summary>What it was told before</summary><pre>{escape(system)}</pre></details></div></article>"
    )


def _values(values: dict[str, float]) -> str:
    ranked: Sequence[tuple[str, float]] = sorted(values.items(), key=lambda item: -item[1])
    return "best score to reach: " + ", ".join(f"{escape(action)} {value:+.2f}" for action, value in ranked)
