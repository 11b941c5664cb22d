"""``conservator data``: build what planners learn from, and show it."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conservator.apps.cli.options import with_options
from conservator.training.planner.orders import PlannerDataOrder

if TYPE_CHECKING:
    from conservator.training.planner.lessons import PlannerLesson

data_app = typer.Typer(help="Build and show the data that planners learn from.", no_args_is_help=True)


@data_app.command("build")
@with_options(PlannerDataOrder, "order", flags={"output": "--output -o"})
def build_data(*, order: PlannerDataOrder) -> None:
    """Damage crops, run every toolchain on each, and write down what is best in RestoreAgent's five situations."""
    from conservator.training.planner.questions import build_planner_data

    made = build_planner_data(order, typer.echo)
    page = show_lessons(order.output, 30)
    typer.echo(f"{made} questions in {order.output}; look at thirty of them in {page}")


@data_app.command("show")
def show_data(
    data: Annotated[Path, typer.Argument(help="A folder that 'data build' made.", exists=True)],
    count: Annotated[int, typer.Option(min=1, help="Questions on the page.")] = 30,
) -> None:
    """Write a page with some of the questions, evenly drawn, to look at."""
    typer.echo(show_lessons(data, count))


def show_lessons(data: Path, count: int) -> Path:
    """Write ``index.html`` into a folder of data: every so many-th question with its picture and answer."""
    from conservator.files import write_text
    from conservator.pages import make_page
    from conservator.training.planner.lessons import read_lessons

    lessons = read_lessons(data)
    shown = lessons[:: max(1, len(lessons) // count)][:count]
    page = data / "index.html"
    told = {"shown": str(len(shown)), "total": str(len(lessons)), "lessons": "\n".join(map(_article, shown))}
    write_text(page, make_page("lessons", "Planner data", files_beside=True, **told))
    return page


def _article(lesson: PlannerLesson) -> str:
    from conservator.policies.dialects.words import goal
    from conservator.training.planner.answers import right_answers
    from conservator.training.planner.teaching import DIALECT

    system, question = DIALECT.ask(lesson.told, lesson.objective, lesson.gains, lesson.wish)
    shares = [(DIALECT.write(answer), share) for answer, share in right_answers(lesson, DIALECT.plans).items()]
    others = "".join(f"<br>{share:.0%} of the answers: {escape(answer)}" for answer, share in shares)
    wish = goal(lesson.objective, lesson.wish).partition("\n")[2]
    picture = f'<img src="{escape(lesson.pictures[-1])}" alt="the photo now" loading="lazy">'
    return (
        f'<article class="lesson"><div>{picture}</div>'
        f"<div><h2>{escape(', '.join(filter(None, (lesson.situation, lesson.objective, wish))))}</h2>"
        f'<p class="soft">{escape(lesson.name)}: {escape(", ".join(sorted(lesson.kinds)) or "clean")}</p>'
        f'<pre>{escape(question.text)}</pre><pre class="answer">{escape(DIALECT.write(lesson.answer))}</pre>'
        f'<p class="soft">{_values(lesson)}{others}</p>'
        f"<details><summary>What it was told before</summary><pre>{escape(system.text)}</pre></details></div></article>"
    )


def _values(lesson: PlannerLesson) -> str:
    from conservator.session.trajectory import Decision
    from conservator.training.planner.teaching import DIALECT

    ranked = sorted(lesson.values.items(), key=lambda item: -item[1])
    told = (
        f"{escape(DIALECT.write(Decision(action)).removeprefix('plan: '))} {value:+.2f}" for action, value in ranked
    )
    return "best score to reach: " + ", ".join(told)
