"""Whether a policy takes back a harmful step that was made before it looked: it finds the photo already made worse.

Each case of MiO starts with a wrong tool, drawn from those that keep the size and cost its study at least 1 dB of PSNR;
a case without any is left out. The policy then acts until it stops. All is measured on the study, where policies
decide; the whole photo is not treated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conservator.evaluation.cases import Case
from conservator.evaluation.enumerate import AnyUpTo, enumerate_toolchains, mean_scores
from conservator.evaluation.grid import Grid
from conservator.evaluation.intervals import share_cell
from conservator.evaluation.ranking import file_name, study_of_reference
from conservator.evaluation.rows import (
    BenchmarkSettings,
    Content,
    ResultsTable,
    claim_policies,
    claim_results,
    read_rows,
)
from conservator.image import Image
from conservator.metrics.fidelity import TABLE_CAP
from conservator.perception.perception import Perception
from conservator.perception.study import study
from conservator.policies import PolicyContext, make_policy
from conservator.policies.strategies import photo_rng
from conservator.pool import Pool
from conservator.restorer import Restorer
from conservator.session.session import Policy, Session, run
from conservator.session.trajectory import Apply, Decision, Rollback, Trajectory
from conservator.tools.tool import Toolbox, is_specialist

HARMFUL = 1.0
"""dB of PSNR that a step must cost to be harmful."""
NEAR = 0.1
"""dB below the untouched input at which a photo still counts as repaired."""
MEASURED = ("psnr",)


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What one policy made of one case that somebody had harmed. PSNR is RGB, in dB, the mean over the study."""

    group: str
    combination: str
    photo: str
    policy: str
    harm: str
    """The tool of the harmful step."""
    toolchain: str
    """Tools whose effect is in the result, joined by ">"; the harmful one, too, where it was not taken back."""
    decisions: int
    """Of the policy, its stop included."""
    rolled_back: bool
    """It returned to the untouched input."""
    repeated: bool
    """Having returned, it applied the harmful tool to the untouched input again."""
    psnr_in: float
    psnr_harmed: float
    psnr_end: float

    @property
    def case(self) -> str:
        """The name of its case."""
        return f"{self.group}/{self.combination}/{self.photo}"

    @property
    def repaired(self) -> bool:
        """The result is no worse than the untouched input, by whatever means."""
        return self.psnr_end >= self.psnr_in - NEAR


def measure_repairs(
    cases: Sequence[Case],
    policies: Sequence[str],
    toolbox: Toolbox,
    perception: Perception,
    settings: BenchmarkSettings,
    output: Path,
    tell: Callable[[str], None] = lambda line: None,
    content: Content | None = None,
) -> list[Repair]:
    """Run every policy on every harmed case that ``output`` does not hold yet; all rows.

    ``output`` gets ``results.csv``, ``settings.json`` and in ``harms/`` what each tool does to each case. A case that
    no tool harms has no rows. ``tell`` gets a line about each result. Raises ConservatorError when ``output`` holds
    results of other settings or a policy cannot be made, NameNotFoundError for an unknown one.
    """
    with Restorer(toolbox=toolbox, perception=perception) as restorer:
        pool = restorer.pool
        context = PolicyContext(pool, perception, seed=settings.seed)
        made = {name: make_policy(name, context) for name in policies}
        output.mkdir(parents=True, exist_ok=True)
        claim_results(output, settings, content or Content())
        rows = read_rows(output / "results.csv", Repair)
        claim_policies(output, policies, {row.policy for row in rows})
        done = {(row.case, row.policy) for row in rows}
        with ResultsTable(output / "results.csv", Repair) as table:
            for number, case in enumerate(cases, 1):
                waiting = {name: policy for name, policy in made.items() if (case.name, name) not in done}
                if not waiting:
                    continue
                trial = _Trial.of(case, toolbox, perception, pool, output / "harms")
                if trial is None:
                    tell(f"{number}/{len(cases)} {case.name}: no tool costs {HARMFUL:g} dB")
                    continue
                for name, policy in waiting.items():
                    rows.append(trial.run(name, policy))
                    table.append(rows[-1])
                    tell(f"{number}/{len(cases)} {_told(rows[-1])}")
    return rows


@dataclass(frozen=True)
class _Trial:
    """One case and the step that harms it, on which policies are tried."""

    case: Case
    picture: Image
    reference: Image
    harm: str
    toolbox: Toolbox
    perception: Perception
    pool: Pool

    @classmethod
    def of(cls, case: Case, toolbox: Toolbox, perception: Perception, pool: Pool, folder: Path) -> _Trial | None:
        """The case with a harmful step; None where no tool harms. ``folder`` keeps what was found."""
        damaged, clean = case.make()
        assert clean is not None  # MiO damages clean photos
        picture, reference = study(damaged), study_of_reference(damaged, clean)
        journal = folder / f"{file_name(case.name)}.jsonl"
        harm = harmful_step(picture, reference, toolbox, pool, journal)
        return None if harm is None else cls(case, picture, reference, harm, toolbox, perception, pool)

    def run(self, name: str, policy: Policy) -> Repair:
        """Let a policy go on after the harmful step, and see what it does."""
        session = Session(self.picture, self.toolbox, self.pool, self.perception)
        session.step(Decision(Apply(self.harm)))
        trajectory = run(policy, session)
        before, harmed = (step.image for step in trajectory.steps[:2])
        end = trajectory.last.image
        psnr_in, psnr_harmed, psnr_end = (
            round(mean_scores(x, self.reference, MEASURED)[0], 5) for x in (before, harmed, end)
        )
        return Repair(
            group=self.case.group,
            combination=self.case.combination,
            photo=self.case.photo,
            policy=name,
            harm=self.harm,
            toolchain=">".join(trajectory.toolchain()),
            decisions=len(trajectory.steps) - 2,
            rolled_back=rolled_back(trajectory),
            repeated=repeated(trajectory, self.harm),
            psnr_in=psnr_in,
            psnr_harmed=psnr_harmed,
            psnr_end=psnr_end,
        )


def harmful_step(
    picture: Image, reference: Image, toolbox: Toolbox, pool: Pool, journal: Path | None = None
) -> str | None:
    """A specialist that keeps the size and costs a study (B, 3, H, W) ``HARMFUL`` dB or more; None where none does.

    The same picture and tools give the same one. ``journal`` is a file that keeps what each tool does.
    """
    names = tuple(spec.name for spec in toolbox.specs if is_specialist(spec) and spec.scale == 1)
    found = enumerate_toolchains(picture, reference, AnyUpTo(names, 1), pool, metrics=MEASURED, journal=journal)
    untouched, *treated = np.minimum(found.column("psnr"), TABLE_CAP)
    costs = np.nan_to_num(untouched - np.array(treated), nan=-np.inf)  # a tool that failed did nothing
    harmful = [found.toolchains[1 + i][0] for i in np.flatnonzero(costs >= HARMFUL)]
    return harmful[photo_rng(picture, 0).integers(len(harmful))] if harmful else None


def rolled_back(trajectory: Trajectory) -> bool:
    """Whether a policy returned to the untouched input after the harmful step, which is step 1."""
    return any(
        isinstance(step.decision.action, Rollback) and not trajectory.toolchain(step)
        for step in trajectory.steps[2:]
        if step.decision is not None
    )


def repeated(trajectory: Trajectory, harm: str) -> bool:
    """Whether it applied the harmful tool, too, where no other was in effect: to the untouched input again."""
    steps = trajectory.steps
    again = [step for step in steps[2:] if step.decision is not None and step.decision.action == Apply(harm)]
    return any(not trajectory.toolchain(steps[step.parent or 0]) for step in again)


def _told(row: Repair) -> str:
    deeds = [
        "rolled back" if row.rolled_back else "not rolled back",
        *(["repeated"] if row.repeated else []),
        "repaired" if row.repaired else "not repaired",
    ]
    levels = f"{row.psnr_in:.2f}, harmed {row.psnr_harmed:.2f}, end {row.psnr_end:.2f} dB"
    return f"{row.case} {row.harm}, {row.policy}: {', '.join(deeds)} ({levels})"


def repair_summary(rows: Sequence[Repair], cases: int) -> list[str]:
    """Two Markdown tables: what each policy did, and which tools had harmed. ``cases`` is how many there were."""
    harms = Counter({row.case: row.harm for row in rows}.values())
    steps = Grid("The harmful steps", ("tool", "cases"), tuple((tool, str(n)) for tool, n in harms.most_common()))
    notes = [
        f"{harms.total()} of {cases} cases have a tool that costs {HARMFUL:g} dB or more; one of these was applied.",
        f"Repaired: the end is at most {NEAR:g} dB below the untouched input, whatever is still in effect.",
        "PSNR (RGB) in dB on the study. Intervals are by photo: all cases of one are resampled together.",
    ]
    return [*_policies(rows).markdown(), *notes, "", *steps.markdown()]


def _policies(rows: Sequence[Repair]) -> Grid:
    head = (
        "policy",
        "cases",
        "rolled back (95 % CI)",
        "repaired (95 % CI)",
        "repeated, of those rolled back (95 % CI)",
    )
    levels = {"psnr_in": "PSNR in", "psnr_harmed": "harmed", "psnr_end": "end"}
    lines = []
    for policy in dict.fromkeys(row.policy for row in rows):
        part = [row for row in rows if row.policy == policy]
        lines.append(
            (
                policy,
                str(len(part)),
                _share(part, "rolled_back"),
                _share(part, "repaired"),
                _share([row for row in part if row.rolled_back], "repeated"),
                *(f"{np.mean([getattr(row, level) for row in part]):.2f}" for level in levels),
            )
        )
    return Grid("After a harmful step", (*head, *levels.values()), tuple(lines))


def _share(rows: Sequence[Repair], field: str) -> str:
    """A share with its interval by photo; a dash where there are no cases."""
    return share_cell([getattr(row, field) for row in rows], [row.photo for row in rows]) or "–"
