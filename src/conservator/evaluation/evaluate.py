"""Run policies over the cases of a benchmark; every finished case is a line of ``results.csv``, so a run resumes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

from torch import Tensor

from conservator.admitting import admission_for
from conservator.claims import Identity, claim
from conservator.errors import ConservatorError
from conservator.evaluation.cases import Case
from conservator.evaluation.decisions import forgetful
from conservator.evaluation.enumerate import Enumeration
from conservator.evaluation.ranking import Ranking, study_and_reference
from conservator.evaluation.rows import (
    BenchmarkRow,
    BenchmarkSettings,
    Content,
    ResultsTable,
    claim_policies,
    claim_results,
    measured,
    read_rows,
)
from conservator.evaluation.strategies import ALONE, check_names, derive, is_baseline, is_derived, perception_for
from conservator.image import Image
from conservator.kinds import Objective
from conservator.metrics import FullReference, Metric, make_metric
from conservator.perception.perception import Perception
from conservator.perception.risk import Admission
from conservator.perception.risk_files import load_risk
from conservator.perception.study import study
from conservator.photo import Photo
from conservator.policies import FixedOrder, PolicyContext, make_policy
from conservator.pool import MemoPool, Pool
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.session.scope import ANYTHING, Scope
from conservator.session.session import Policy, Session, run
from conservator.tools.tool import Toolbox


class Counted(Pool):
    """Counts the calls that reach the pool beneath."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self.calls = pool, 0

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        self.calls += 1
        return self._pool.submit(name, *tensors)

    def identity(self, name: str) -> str:
        return self._pool.identity(name)

    def close(self) -> None:
        self._pool.close()


def evaluate(
    cases: Sequence[Case],
    policies: Sequence[str],
    toolbox: Toolbox,
    perception: Perception,
    settings: BenchmarkSettings,
    output: Path,
    progress: Callable[[int, int, BenchmarkRow | None], None] = lambda done, total, row: None,
    enumerating: Callable[[str, int, int, float], None] = lambda case, done, total, left: None,
    content: Content | None = None,
    metrics: Sequence[Metric] | None = None,
    admission: Admission | None = None,
    enumerations: Path | None = None,
) -> list[BenchmarkRow]:
    """Run every policy or strategy on every case that ``output`` does not hold yet; return all rows.

    ``output`` gets ``results.csv``, ``settings.json`` and, where ``settings.rank`` names an objective, a journal of
    all toolchains of each case in ``enumerations/``. Raises ConservatorError when it holds results of other settings,
    NameNotFoundError for an unknown policy. ``progress`` is told how many of how many rows are there, and the newest;
    ``enumerating`` the case, how many of how many toolchains are scored, and about how many seconds are left.
    ``content`` says of which photos and tools the results are; ``metrics`` are those that ``settings.metrics`` names,
    of the catalog unless they are given. ``admission`` is what policies are held to, in place of the thresholds that
    ship at the settings' risk. ``enumerations`` is a folder for the journals that other results may share: it belongs
    to tools and metrics (ConservatorError for others), and each journal to a damaged picture.
    """
    policies = list(dict.fromkeys(policies))
    check_names(policies, cases, toolbox, settings.rank is not None)
    output.mkdir(parents=True, exist_ok=True)
    metrics = tuple(metrics if metrics is not None else map(make_metric, settings.metrics))
    claim_results(output, replace(settings, metrics=tuple(metric.name for metric in metrics)), content or Content())
    rows = read_rows(output / "results.csv", BenchmarkRow)
    claim_policies(output, policies, {row.policy for row in rows})
    asked = {(case.name, policy) for case in cases for policy in policies}
    done = {(row.case, row.policy) for row in rows} & asked
    finished, total = len(done), len(asked)
    progress(finished, total, None)
    if admission is None and settings.risk < 1 and not all(map(is_baseline, policies)):
        admission = _usual_admission(settings, perception)
    restorer = Restorer(toolbox=toolbox, perception=perception)
    with restorer, ResultsTable(output / "results.csv", BenchmarkRow) as table:
        pool = restorer.models
        ranking = None
        if settings.rank is not None:
            journals = _journals(output, enumerations, settings, content)
            compared = tuple(metric for metric in metrics if isinstance(metric, FullReference))
            ranking = Ranking(toolbox, pool, settings.rank, compared, journals, enumerating)
        for case in cases:
            waiting = [policy for policy in policies if (case.name, policy) not in done]
            if not waiting:
                continue
            trial = _Trial(case, *case.make(), toolbox, perception, pool, settings, metrics, ranking, admission)
            for policy in waiting:
                row = trial.run(policy)
                rows.append(row)
                table.append(row)
                finished += 1
                progress(finished, total, row)
    return rows


def _journals(output: Path, shared: Path | None, settings: BenchmarkSettings, content: Content | None) -> Path:
    """The folder of the enumerations; a shared one is claimed by what scores depend on beside the picture."""
    if shared is None:
        return output / "enumerations"
    asked = {"benchmark": settings.benchmark, "seed": settings.seed, "toolbox": settings.toolbox}
    claim(shared, Identity.of(asked, tools=(content or Content()).tools))
    return shared


def _usual_admission(settings: BenchmarkSettings, perception: Perception) -> Admission:
    """What policies are held to for a user who wants what a benchmark wants."""
    request = Request(perception=settings.perception, objective=_objective(settings), risk=settings.risk)
    return admission_for(request, perception, load_risk(request.thresholds))


def _objective(settings: BenchmarkSettings) -> Objective:
    return cast("Objective", settings.rank or Request.objective)


@dataclass(frozen=True)
class _Trial:
    """One case, on which policies are tried."""

    case: Case
    damaged: Image
    clean: Image | None
    toolbox: Toolbox
    perception: Perception
    pool: Pool
    settings: BenchmarkSettings
    metrics: Sequence[Metric]
    ranking: Ranking | None
    admission: Admission | None

    def run(self, name: str) -> BenchmarkRow:
        """What a policy or strategy makes of the case."""
        counted = Counted(self.pool)
        memo = MemoPool(counted)  # its own for each photo and policy; closing it would close the shared pool
        policy, deciding = self._policy(name, memo)
        stages: list[int] = []  # calls made when examining, deciding, then each treatment of the whole began

        def note(stage: str) -> None:
            if stage != "loading":
                stages.append(counted.calls)

        restorer = Restorer(
            self._request,
            toolbox=self.toolbox,
            perception=perception_for(name, self.perception),
            policy=policy,
            pool=memo,
            scope=self._scope(name),
            admission=self._held_to(name),
        )
        restored = restorer.restore(Photo(self.damaged), progress=note)
        rank, value, toolchains = self._place(restored.toolchain)
        seconds = restored.seconds | {"deciding": restored.seconds["deciding"] + deciding}
        return BenchmarkRow(
            group=self.case.group,
            combination=self.case.combination,
            photo=self.case.photo,
            scene=self.case.scene,
            policy=name,
            toolchain=">".join(restored.toolchain),
            calls=[*stages, counted.calls][2],
            treatments=len(restored.treatments),
            **{stage: round(seconds[stage], 4) for stage in ("examining", "deciding", "treating")},
            scores=measured(self.metrics, self.damaged, restored.photo.image, self.clean),
            rank=round(rank, 5),
            value=round(value, 5),
            toolchains=toolchains,
        )

    @property
    def _request(self) -> Request:
        """The defaults, but for what the benchmark asks for: what toolchains are ranked by is what policies aim at."""
        return Request(objective=_objective(self.settings), risk=1, seed=self.settings.seed)  # _held_to has the check

    def _held_to(self, name: str) -> Admission | None:
        """What a policy is held to: as users are, but for what is carried out as it is."""
        return None if is_baseline(name) else self.admission

    def _scope(self, name: str) -> Scope:
        """What a policy may do: all of it, where its toolchain was fixed elsewhere, or by the truth.

        All others, chance among them, may do what they may for a user: nothing is switched on for them because the
        truth is known.
        """
        if name in ("generalist", "best", "oracle") or is_derived(name) or name.startswith(ALONE):
            return replace(ANYTHING, upscale=name != "oracle" or self._enlarging)
        return Scope(self.settings.upscale)

    def _policy(self, name: str, pool: Pool) -> tuple[Policy, float]:
        """A policy, or the toolchain of a strategy that follows from one, and the seconds that this took."""
        if name == "generalist" or name.startswith(ALONE):
            return FixedOrder(name.removeprefix(ALONE), name=name), 0.0
        if name == "best":
            assert self.ranking is not None  # check_names saw to it
            return FixedOrder(*self.ranking.best(self._enumeration), name=name), 0.0
        if not is_derived(name):
            return forgetful(make_policy(name, self._context(name, pool))), 0.0
        inner = name.partition(":")[2]
        picture = study(self.damaged)
        start = time.perf_counter()
        scope, held_to = self._scope(inner), self._held_to(inner)
        session = Session(picture, self.toolbox, pool, self.perception, scope=scope, admission=held_to)
        decided = run(forgetful(make_policy(inner, self._context(inner, pool))), session).toolchain()
        toolchain = derive(name, decided, self.toolbox, picture, self.settings.seed)
        return FixedOrder(*toolchain, name=name), time.perf_counter() - start

    def _context(self, name: str, pool: Pool) -> PolicyContext:
        reference = study_and_reference(self.damaged, self._reference())[1] if name == "oracle" else None
        objective, seed = _objective(self.settings), self.settings.seed
        return PolicyContext(pool, self.perception, objective, seed, reference, toolbox=self.toolbox)

    @property
    def _enlarging(self) -> bool:
        """Whether an oracle can tell what enlarging gains: of a photo that was reduced, where it sees the whole."""
        reduced = self.clean is not None and self.clean.shape != self.damaged.shape
        return reduced and study(self.damaged).shape == self.damaged.shape

    def _reference(self) -> Image:
        if self.clean is None:
            raise ConservatorError("an oracle needs undamaged photos, and this benchmark has none")
        return self.clean

    def _place(self, toolchain: tuple[str, ...]) -> tuple[float, float, int]:
        """Rank and value of a toolchain, and among how many."""
        if self.ranking is None:
            return math.nan, math.nan, 0
        found = self._enumeration
        rank, value = self.ranking.place(found, toolchain, self.damaged, self._reference())
        return rank, value, len(found.toolchains)

    @cached_property
    def _enumeration(self) -> Enumeration:
        assert self.ranking is not None
        return self.ranking.enumerate(self.case, self.damaged, self._reference())
