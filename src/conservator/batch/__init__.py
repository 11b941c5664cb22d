"""Batches: many photos through one restorer, documented by a journal, resumable."""

from conservator.batch.engine import run_batch
from conservator.batch.executor import Executor, Threads
from conservator.batch.files import FileRestorer
from conservator.batch.find import Findings, find_tasks
from conservator.batch.index import save_index
from conservator.batch.journal import JOURNAL, Journal, Outcome, Status
from conservator.batch.preview import Preview, preview_batch
from conservator.batch.standing import Job
from conservator.batch.summary import Summary
from conservator.batch.tasks import Task

__all__ = [
    "JOURNAL",
    "Executor",
    "FileRestorer",
    "Findings",
    "Job",
    "Journal",
    "Outcome",
    "Preview",
    "Status",
    "Summary",
    "Task",
    "Threads",
    "find_tasks",
    "preview_batch",
    "run_batch",
    "save_index",
]
