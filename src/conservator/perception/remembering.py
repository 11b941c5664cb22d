"""A perception that examines each picture once: for rollouts, and for data, that come to a picture again and again."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from torch import Tensor

from conservator.errors import ConservatorError
from conservator.image import Image, digest
from conservator.kinds import Kind
from conservator.perception.network import TrainedPerception
from conservator.perception.perception import Gain, Look, Percept, Perception

_PATIENCE = 60.0
"""Seconds that a process waits for another one that writes; a row is written in milliseconds."""


class RememberingPerception(Perception):
    """Grades and weighs as the perception beneath does, and remembers both by the digests of the pictures.

    A percept takes a few kilobytes, its picture is not kept. With a ``file`` what was measured of a picture, which is
    nearly all the work, is remembered for other processes, too, that may use the file at the same time.
    """

    def __init__(self, perception: Perception, file: Path | None = None) -> None:
        """Raises ConservatorError for a ``file`` of another perception, or for a perception that is not trained."""
        self._perception, self._seen = perception, dict[str, Percept]()
        self._weighed = dict[tuple[str, str, frozenset[Kind]], Gain]()
        self._kept = None if file is None else MeasuredPictures(file, _trained(perception))

    def grade(self, image: Image) -> Percept:
        """What the perception beneath says, the first time or then."""
        key = digest(image)
        if key not in self._seen:
            self._seen[key] = self._perception.grade(image) if self._kept is None else self._kept.grade(image)
        return self._seen[key]

    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        """What the perception beneath says."""
        key = digest(before.image), digest(after.image), treated
        if key not in self._weighed:
            self._weighed[key] = self._perception.weigh(before, after, treated)
        return self._weighed[key]


class MeasuredPictures:
    """What a perception measured of pictures, in an SQLite file, by their digests."""

    def __init__(self, file: Path, perception: TrainedPerception) -> None:
        """Raises ConservatorError where ``file`` is of another perception, or none of these."""
        self._file, self._perception, own = file, perception, perception.hash
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._connected() as kept:
            kept.execute("CREATE TABLE IF NOT EXISTS measured (picture TEXT PRIMARY KEY, said BLOB)")
            kept.execute("CREATE TABLE IF NOT EXISTS perception (hash TEXT PRIMARY KEY)")
            kept.execute("INSERT INTO perception SELECT ? WHERE NOT EXISTS (SELECT * FROM perception)", (own,))
            if kept.execute("SELECT hash FROM perception").fetchone()[0] != own:
                raise ConservatorError(
                    f"{file} keeps what another perception measured; give another file, or remove it"
                )

    def grade(self, image: Image) -> Percept:
        """The percept of a picture, which is measured only where the file does not know it."""
        key = digest(image)
        with self._connected() as kept:
            row = kept.execute("SELECT said FROM measured WHERE picture = ?", (key,)).fetchone()
        if row is not None:
            return self._perception.graded(image, self._read(row[0]))
        measured = self._perception.measure(image)
        said = {"measures": dict(measured[0]), "features": measured[1].tolist()}
        with self._connected() as kept:
            kept.execute(
                "INSERT OR IGNORE INTO measured VALUES (?, ?)", (key, zlib.compress(json.dumps(said).encode()))
            )
        return self._perception.graded(image, measured)

    def _read(self, said: bytes) -> tuple[dict[str, float], Tensor]:
        try:
            told = json.loads(zlib.decompress(said))
            return told["measures"], torch.tensor(told["features"])
        except (zlib.error, ValueError, KeyError, TypeError) as error:
            raise ConservatorError(f"{self._file} holds a row that cannot be read ({error}); remove it") from error

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection of this call alone, so that threads and forked processes may share the object."""
        try:
            with closing(sqlite3.connect(self._file, timeout=_PATIENCE)) as connection, connection:
                yield connection
        except sqlite3.Error as error:
            raise ConservatorError(
                f"{self._file} cannot be used to keep what perception measured ({error}); give another file"
            ) from error


def _trained(perception: Perception) -> TrainedPerception:
    if not isinstance(perception, TrainedPerception):
        raise ConservatorError(
            f"what {type(perception).__name__} measures cannot be kept in a file; give none, or a trained perception"
        )
    return perception
