"""What an enumeration has found so far, on disk: it grows by whole lines, so that a killed run goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from conservator.errors import ConservatorError
from conservator.evaluation.spaces import Toolchain


@dataclass(frozen=True)
class Scored:
    """One toolchain's picture, by its digest ("" where a tool failed), and its scores, one per metric."""

    digest: str
    scores: tuple[float, ...]


class EnumerationJournal:
    """Toolchains and their scores, in memory and, with a path, line by line in a JSON Lines file."""

    def __init__(self, path: Path | None, about: Mapping[str, object]) -> None:
        """``about`` says what is enumerated; ConservatorError when the file tells of something else."""
        self._path, self._file = path, None
        self.known: dict[Toolchain, Scored] = {}
        if path is None:
            return
        head = json.dumps(dict(about))
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = whole_lines(path)
        if lines and lines[0] != head:
            raise ConservatorError(f"{path} enumerates another picture or measures otherwise; remove it to start anew")
        for line in lines[1:]:
            entry = json.loads(line)
            scores = tuple(math.nan if value is None else float(value) for value in entry["scores"])
            self.known[tuple(entry["toolchain"])] = Scored(entry["picture"], scores)
        self._file = path.open("a", encoding="utf-8")
        if not lines:
            self._file.write(head + "\n")
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, toolchain: Toolchain, scored: Scored) -> None:
        """Remember a toolchain's scores, and write them down at once."""
        self.known[toolchain] = scored
        if self._file is not None:
            values = [None if math.isnan(value) else value for value in scored.scores]
            entry = {"toolchain": toolchain, "picture": scored.digest, "scores": values}
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()


def whole_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file that grows by lines; what a killed run left half written is cut off the file."""
    if not path.exists():
        return []
    written = path.read_bytes()
    whole = written[: written.rfind(b"\n") + 1]
    if len(whole) < len(written):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return whole.decode().splitlines()
