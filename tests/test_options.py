"""Options of a command, made from a dataclass: names, defaults, words and limits are said once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import typer
from typer.testing import CliRunner

from conservator.apps.cli import app as conservator_app
from conservator.apps.cli.options import field_docs, with_options
from conservator.kinds import Kind
from conservator.training.planner.orders import SftOrder


@dataclass(frozen=True)
class Wanted:
    """What a command wants."""

    photos: Path
    """Folder of photos,
    on two lines."""
    count: int = field(default=3, metadata={"min": 1})
    """How many."""
    share: float | None = None
    """A share."""
    objective: Literal["fast", "good"] = "good"
    """What counts."""
    names: tuple[str, ...] = ()
    """Names."""
    only: frozenset[Kind] | None = None
    """Kinds."""
    in_words: bool = False
    """In words."""
    secret: int = 7
    """Never asked for."""


def called_with(*arguments: str) -> tuple[Wanted | None, str]:
    """What the command got, and what was printed."""
    got: list[Wanted] = []
    app = typer.Typer()

    @app.command()
    @with_options(Wanted, "wanted", flags={"photos": "--photos -p"}, leave_out=("secret",))
    def command(threads: int = 2, *, wanted: Wanted) -> None:
        """Do it."""
        assert threads == 2
        got.append(wanted)

    result = CliRunner().invoke(app, list(arguments), terminal_width=200)
    return (got[0] if got else None), result.output


def test_defaults_are_those_of_the_dataclass() -> None:
    assert called_with("-p", "somewhere")[0] == Wanted(Path("somewhere"))


def test_every_kind_of_field_is_read() -> None:
    wanted = Wanted(Path("a"), 5, 0.25, "fast", ("rain+noise", "stop"), frozenset({Kind.RAIN, Kind.LOW_LIGHT}), True)
    given = ["--photos", "a", "--count", "5", "--share", "0.25", "--objective", "fast"]
    given += ["--names", "rain+noise", "--names", "stop", "--only", "rain,low_light", "--in-words"]
    assert called_with(*given)[0] == wanted
    assert called_with("--photos", "d")[0] == Wanted(Path("d"))


def test_limits_choices_and_what_is_missing_are_refused() -> None:
    for arguments, why in (
        (["--photos", "a", "--count", "0"], "greater than or equal to 1"),
        (["--photos", "a", "--objective", "cheap"], "fast"),
        (["--count", "2"], "Missing option"),
        (["--photos", "a", "--secret", "1"], "No such option"),
    ):
        got, printed = called_with(*arguments)
        assert got is None
        assert why in printed


def test_help_shows_each_docstring() -> None:
    assert field_docs(Wanted)["photos"] == "Folder of photos, on two lines."
    _, printed = called_with("--help")
    for name, words in field_docs(Wanted).items():
        assert (words.split()[0] in printed) == (name != "secret")


def test_the_planners_commands_take_all_that_their_orders_hold() -> None:
    printed = CliRunner().invoke(conservator_app, ["train", "sft", "--help"], terminal_width=200).output
    assert all(f"--{name}" in printed for name in field_docs(SftOrder))
