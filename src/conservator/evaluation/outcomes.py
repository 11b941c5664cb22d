"""What becomes of many cases at every threshold of risk control: a table on disk that resumes, in several processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from conservator.claims import Identity, claim
from conservator.errors import ConservatorError
from conservator.evaluation.cases import Case, make_cases
from conservator.evaluation.descent import GRID, CaseOutcome, Trial, harm_metric
from conservator.evaluation.rows import Content, ResultsTable, content_of, measured, read_rows
from conservator.files import sha256
from conservator.kinds import OBJECTIVES, Objective
from conservator.metrics import make_metric
from conservator.perception.harm import NetworkHarm
from conservator.perception.network import NetworkPerception
from conservator.perception.risk import DOUBT
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.tools.catalog import make_toolbox


@dataclass(frozen=True)
class CurveSettings:
    """What the outcomes depend on; a folder of results belongs to one."""

    benchmark: str
    """Of evaluation/cases.py: mixture, or another whose cases have a reference."""
    photos: str
    """The name of the folder, not where it lies."""
    part: str | None = None
    """The part of the photos, where they are those of one; ``photos`` is then the data's root."""
    policy: str = "greedy"
    toolbox: str = "conservator"
    perception: str = "perception"
    harm: str = "harm"
    """The weights that estimate the chance of harm: a name of the package's, or a file."""
    objectives: tuple[Objective, ...] = OBJECTIVES
    seed: int = 0
    limit: int | None = None

    def cases(self, folder: Path) -> list[Case]:
        """The cases, of the photos in ``folder``."""
        return make_cases(self.benchmark, folder, self.seed, self.limit, self.part)

    def trial(self) -> Trial:
        """What restores them. Raises MissingExtraError where the metric of the objective perceptual cannot be had."""
        restorer = Restorer(Request(toolbox=self.toolbox, perception=self.perception))
        perception = restorer.perception
        if not isinstance(perception, NetworkPerception):
            raise ConservatorError(
                f"the perception {self.perception} estimates no chance of harm; give one that asks experts, as "
                "perception does"
            )
        probe, judges = (
            torch.zeros(1, 3, 64, 64),
            [make_metric(harm_metric(objective)) for objective in self.objectives],
        )
        measured(judges, probe, probe, probe)  # what is not installed is told before hours of work
        return Trial(
            restorer.toolbox,
            perception,
            NetworkHarm.load(perception, self.harm),
            restorer.models,
            self.policy,
            self.objectives,
            self.seed,
        )


def curve_content(settings: CurveSettings, files: Sequence[Path], folder: Path, cache: Path | None = None) -> Content:
    """What outcomes rest on, by hash: photos, tools and weights. ``cache`` is a folder that keeps the photos' hashes.

    Thresholds are no part of it, for outcomes are known at all of them; nor is the model of another policy.
    """
    content = content_of(files, folder, make_toolbox(settings.toolbox), settings.toolbox, cache)
    others = {"risk"} if settings.policy == "mllm" else {"risk", "nano"}
    weights = {name: value for name, value in content.weights.items() if name not in others}
    given = [Path(name) for name in (settings.perception, settings.harm) if name.endswith(".safetensors")]
    return replace(content, weights=weights | {path.name: sha256(path) for path in given})


def curve_identity(settings: CurveSettings, content: Content) -> Identity:
    """Whose a folder of outcomes is: with the thresholds that were tried, for outcomes are known at these alone."""
    grid = hashlib.sha256(repr(GRID).encode()).hexdigest()[:16]
    contents = {"photos": content.photos, "tools": content.tools, "weights": content.weights}
    return Identity.of({**asdict(settings), "grid": grid, "doubt": DOUBT}, **contents)


Making = Callable[[CurveSettings], Trial]
"""Makes what restores the cases; it must be picklable, for each process calls it."""


def measure_outcomes(
    settings: CurveSettings,
    folder: Path,
    output: Path,
    jobs: int = 2,
    progress: Callable[[int, int, Sequence[CaseOutcome]], None] = lambda done, total, newest: None,
    content: Content = Content(),  # noqa: B008 - frozen
    making: Making = CurveSettings.trial,
) -> list[CaseOutcome]:
    """What becomes of each case at every threshold, in the order of the cases; what ``output`` holds is not done again.

    ``output`` gets ``results.csv`` and ``settings.json``; ``jobs`` processes of one thread each do the work, of
    ``content`` (which photos, tools and weights). ``progress`` is told how many of how many cases are done, and the
    outcomes of the newest. Raises ConservatorError where ``output`` holds results of other settings or content.
    """
    claim(output, curve_identity(settings, content))
    cases, table = settings.cases(folder), output / "results.csv"
    found = _whole(read_rows(table, CaseOutcome), len(settings.objectives))
    waiting = [place for place, case in enumerate(cases) if _key(case) not in found]
    progress(len(cases) - len(waiting), len(cases), ())
    with ResultsTable(table, CaseOutcome) as growing:
        for place, outcomes in zip(waiting, _tried(settings, folder, waiting, jobs, making), strict=True):
            for outcome in outcomes:
                growing.append(outcome)
            found[_key(cases[place])] = outcomes
            progress(len(found), len(cases), outcomes)
    return [outcome for case in cases for outcome in found[_key(case)]]


def _key(case: Case) -> tuple[str, str]:
    return case.combination, case.photo


def _whole(rows: Iterable[CaseOutcome], objectives: int) -> dict[tuple[str, str], list[CaseOutcome]]:
    """The outcomes of each case that is done: a run that was killed may have left some of one."""
    found: dict[tuple[str, str], dict[tuple[str, float], CaseOutcome]] = {}
    for row in rows:
        found.setdefault((row.stratum, row.photo), {})[row.objective, row.high] = row
    return {
        key: list(rows.values())
        for key, rows in found.items()
        if sum(row.low == 0 for row in rows.values()) == objectives
    }


# --- in each process --------------------------------------------------------------------------------------------------

_WORKER: tuple[Trial, list[Case]] | None = None


def _tried(
    settings: CurveSettings, folder: Path, places: Sequence[int], jobs: int, making: Making
) -> Iterator[list[CaseOutcome]]:
    global _WORKER
    _WORKER = None  # of another run in this process
    try_one = partial(_try, settings, folder, making)
    if jobs == 1 or len(places) < 2:
        yield from map(try_one, places)
        return
    with ProcessPoolExecutor(jobs) as processes:
        yield from processes.map(try_one, places)


def _try(settings: CurveSettings, folder: Path, making: Making, place: int) -> list[CaseOutcome]:
    global _WORKER
    if _WORKER is None:
        torch.set_num_threads(1)
        _WORKER = making(settings), settings.cases(folder)
    trial, cases = _WORKER
    return trial.outcomes(cases[place])
