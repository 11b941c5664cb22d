"""Batches: many photos through one restorer, documented by a journal, resumable."""

from conservator.batch.engine import run_batch
from conservator.batch.executor import Executor, Job, Threads
from conservator.batch.files import FileRestorer
from conservator.batch.index import save_index
from conservator.batch.journal import JOURNAL, Journal, Outcome, Status, Summary
from conservator.batch.tasks import Task, find_tasks

__all__ = [
    "JOURNAL",
    "Executor",
    "FileRestorer",
    "Job",
    "Journal",
    "Outcome",
    "Status",
    "Summary",
    "Task",
    "Threads",
    "find_tasks",
    "run_batch",
    "save_index",
]
