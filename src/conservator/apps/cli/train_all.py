"""``conservator train all`` and ``train status``: the chain of what ships, from experts to the planner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from conservator.apps.cli.train import Output, PhotosOption, Workers, train_app
from conservator.apps.cli.train_mllm import planner_needs, train_nano
from conservator.errors import ConservatorError, name_not_found
from conservator.training.experts.order import Order, TransferOrder
from conservator.training.perception.order import HarmOrder, PerceptionOrder
from conservator.training.risk.order import RiskOrder
from conservator.training.rl.order import order_that_ships

if TYPE_CHECKING:
    from conservator.weights.chain import Link

_OUTPUT = Path("out/train")
_SHOWN = 3  # parts of what weights were made with
Which = Literal["stale", "unknown", "all"]


@dataclass(frozen=True)
class Rebuild:
    """One command that makes weights that ship."""

    command: str
    """As it is typed, but for the photos."""
    makes: tuple[str, ...]
    run: Callable[[], None]

    def due(self, states: Mapping[str, Link], which: Which) -> bool:
        """Whether it is to run: what it makes is missing, damaged or stale; if asked for, perhaps stale, or any."""
        left = {"stale": ("current", "unknown"), "unknown": ("current",), "all": ()}[which]
        return any(name not in states or states[name].state not in left for name in self.makes)


@train_app.command("all")
def train_all(
    photos: PhotosOption,
    rebuild: Annotated[
        Which, typer.Option(help="What is missing, damaged or stale; also what may be (unknown); or all of it.")
    ] = "stale",
    only: Annotated[str | None, typer.Option(help="These weights and no others, whatever their state.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of train/research and val, for risk thresholds (default: two above the photos)."),
    ] = None,
    output: Output = _OUTPUT,
    workers: Workers = 1,
) -> None:
    """Rebuild, in order, what of experts, perception, risk thresholds and planners is missing, damaged or stale here.

    Resumes. Not RL-Restore's (make rl-restore). All of it takes hours.
    """
    from conservator.extras import import_mllm

    items, done = rebuilds(photos, output, workers, data), 0
    if only is not None and not any(only in item.makes for item in items):
        raise name_not_found("weights file", only, [name for item in items for name in item.makes])
    for item in items:
        if only not in item.makes if only else not item.due(_states(output), rebuild):
            continue
        import_mllm("trl")  # hours before it is used: what is stale now, the planner will be
        typer.echo(f"{item.command} --photos {photos}")
        item.run()
        done += 1
    typer.echo(f"{done} rebuilt" if done else "nothing is stale; rebuild all of it with --rebuild all")


@train_app.command("status")
def show_status(output: Output = _OUTPUT) -> None:
    """What each of the weights that ship was made with, whether it is stale, and the command that rebuilds it."""
    for line in columns([("weights", "state", "made with", "rebuilt by"), *status(output)]):
        typer.echo(line)


def rebuilds(photos: Path, output: Path, workers: int = 1, data: Path | None = None) -> list[Rebuild]:
    """The commands of the chain, in order; ``data`` is the root that risk thresholds take their photos from."""
    from conservator.weights import WEIGHTS

    def expert(name: str) -> Rebuild:
        return Rebuild(
            f"conservator train expert {name}", (name,), lambda: _train_expert(name, photos, output, workers)
        )

    return [
        *map(expert, _experts()),
        Rebuild("conservator train lway", ("lway",), lambda: _train_transfer(photos, output, workers)),
        Rebuild(
            "conservator train perception",
            ("statistics", "perception"),
            lambda: _train_perceptions(photos, output),
        ),
        Rebuild("conservator train harm", ("harm",), lambda: _train_harm(photos, output)),
        Rebuild("conservator train risk", ("risk",), lambda: _train_risk(data or photos.parent.parent, output)),
        Rebuild(
            "conservator train all --only nano", ("nano",), lambda: train_nano(photos, _planner_folder(output), WEIGHTS)
        ),
        Rebuild("conservator train r1", ("r1",), lambda: _train_r1(photos, output)),
    ]


def _train_transfer(photos: Path, output: Path, workers: int) -> None:
    from conservator.training.experts.lway import ship_transfer, train_transfer
    from conservator.weights import WEIGHTS

    order = TransferOrder(photos, output, workers=workers)
    typer.echo(ship_transfer(train_transfer(order, typer.echo), order, WEIGHTS))


def _train_perceptions(photos: Path, output: Path) -> None:
    from conservator.training.perception.train import train_perceptions
    from conservator.weights import WEIGHTS

    train_perceptions(PerceptionOrder(photos, output), WEIGHTS)


def _train_harm(photos: Path, output: Path) -> None:
    from conservator.training.perception.harm import train_harm
    from conservator.weights import WEIGHTS

    train_harm(HarmOrder(photos, output), WEIGHTS)


def _train_risk(data: Path, output: Path) -> None:
    from conservator.apps.cli.train_risk import tell_outcomes
    from conservator.training.risk.calibrate import ship_risk
    from conservator.weights import WEIGHTS

    if not (data / "train" / "research").is_dir():
        raise ConservatorError(
            f"{data} holds no train/research, whose photos risk thresholds are made of; give the folder by --data"
        )
    ship_risk(RiskOrder(output), data, WEIGHTS, tell_outcomes)


def _train_r1(photos: Path, output: Path) -> None:
    from conservator.claims import Identity
    from conservator.training.rl.r1 import r1_needs, ship_r1, train_r1
    from conservator.weights import WEIGHTS

    made_with = r1_needs(order_that_ships(photos, output))
    folder = output / f"r1-{Identity(weights=made_with).digest()}"  # of another perception, another training
    order = order_that_ships(photos, folder)
    typer.echo(ship_r1(train_r1(order, typer.echo), order, WEIGHTS, made_with))


def _train_expert(name: str, photos: Path, output: Path, workers: int) -> None:
    """Train an expert and install it, from what is installed, or from what does not ship, which is trained before."""
    from conservator.training.experts.orders import ship, train
    from conservator.training.experts.queue import set_aside
    from conservator.weights import WEIGHTS

    for one in (*_unshipped_starts(name), name):  # done at once where it is trained already
        order = Order(one, photos, output, workers=workers, beside=False)
        if older := set_aside(order):
            typer.echo(f"{one} starts from other weights now; what was trained from the old ones is kept in {older}")
        trained = train(order, typer.echo)
    typer.echo(ship(trained, order, WEIGHTS))


def status(output: Path = _OUTPUT) -> list[tuple[str, str, str, str]]:
    """Of each of the weights: name, state, what it was made with or what is wrong, command; first those made first."""
    made_by = {name: item.command for item in rebuilds(Path("PHOTOS"), _OUTPUT) for name in item.makes}
    found = _states(output)
    rows = [(name, str(link.state), _short(link), made_by.get(name, "make rl-restore")) for name, link in found.items()]
    return [*rows, *((name, "missing", "-", command) for name, command in made_by.items() if name not in found)]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _short(link: Link) -> str:
    """What a link was made with, or, where it is not current, what is another now ("?": perhaps); at most three."""
    known = [f"{name} {sha[:8]}" for name, sha in link.made_with.items()]
    parts = list(link.stale) or [f"{name}?" for name in link.unknown] or known
    rest = [f"and {len(parts) - _SHOWN} more"] if len(parts) > _SHOWN else []
    return ", ".join([*parts[:_SHOWN], *rest]) or "-"


def _experts() -> list[str]:
    """The experts that ship, in the order in which they can be trained."""
    from conservator.tools.experts import EXPERTS
    from conservator.training.experts.courses import COURSES

    shipping = {expert.spec.name for expert in EXPERTS}
    return [name for name in COURSES if name in shipping]


def _unshipped_starts(name: str) -> list[str]:
    """What an expert's training starts from that does not ship, the first one first."""
    from conservator.training.experts.courses import COURSES

    shipping, found = _experts(), list[str]()
    while (start := COURSES[name].start) is not None and start not in shipping:
        found.insert(0, start)
        name = start
    return found


def _states(output: Path) -> dict[str, Link]:
    """The links of the chain by name, as they are now."""
    from conservator.evaluation.rows import toolbox_hash
    from conservator.tools import make_toolbox
    from conservator.training.experts.orders import hashes_beside
    from conservator.weights import flaws, manifest
    from conservator.weights.chain import links

    starts = {start for name in _experts() for start in _unshipped_starts(name)}
    facts = {"toolbox conservator": toolbox_hash(make_toolbox("conservator")), **hashes_beside(output, starts)}
    return {link.name: link for link in links(manifest(), facts, flaws())}


def _planner_folder(output: Path) -> Path:
    """Another perception or toolbox, another folder: data and checkpoints of the old ones are not taken for these."""
    from conservator.claims import Identity

    return output / f"planner-{Identity(weights=planner_needs()).digest()}"
