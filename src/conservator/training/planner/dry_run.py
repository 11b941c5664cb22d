"""The recipe for a large planner, from photos to a plan, on a checkpoint so small that a CPU does it in minutes.

    conservator train dry-run --photos FOLDER

Every step is the one of the real run: data, a checkpoint in Hugging Face format, adapters, the checkpoint with its
adapters as a policy. Only the checkpoint has learned nothing, so what it plans is worth nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conservator.photo import find_photos, load_photo
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.training.planner.lessons import read_lessons
from conservator.training.planner.nano import new_nano
from conservator.training.planner.needs import needs_table
from conservator.training.planner.orders import DryRunOrder, PlannerDataOrder, SftOrder
from conservator.training.planner.questions import build_planner_data
from conservator.training.planner.sft import texts_of, train_sft


def dry_run(order: DryRunOrder, report: Callable[[str], None] = print) -> Path:
    """Run the recipe in ``order.output``; the folder of adapters. What is there already is not done again.

    Raises ConservatorError for photos or folders that will not do; MissingExtraError without the extra [sft].
    """
    data, checkpoint = order.output / "data", order.output / "checkpoint"
    built = PlannerDataOrder(order.photos, data, order.count, order.toolbox, jobs=1)
    report(f"1. {build_planner_data(built, report)} questions in {data}")
    if not (checkpoint / "config.json").exists():
        new_nano(texts_of(read_lessons(data)), width=64, layers=2).save(checkpoint)
    report(f"2. a checkpoint that has learned nothing in {checkpoint}")
    adapted = SftOrder(
        (data,), order.output / "sft", str(checkpoint), lora=True, rank=4, steps=order.steps, batch=2, every=2
    )
    trained = train_sft(adapted, report)
    report(f"3. adapters after {trained.steps} steps in {trained.folder}")
    photo = find_photos(order.photos)[0]
    with Restorer(Request(policy=f"mllm:{trained.folder}", toolbox=order.toolbox, risk=1)) as restorer:
        plan = restorer.plan(load_photo(photo))
    report(f"4. for {photo.name} they plan: {', '.join(plan.toolchain) or 'nothing'}")
    report("What a real run needs, estimated:\n" + "\n".join(needs_table()))
    return trained.folder
