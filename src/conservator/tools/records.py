"""How an imported tool lies on disk: one file of weights, and one JSON record beside it that says what it is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from conservator.errors import ConservatorError
from conservator.files import replacing, write_text


class WeightsFile(BaseModel):
    """A file of weights in the folder of its record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    """Without a folder: a record cannot point outside its own."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

    def read(self, folder: Path) -> bytes:
        """The file's bytes; raises ConservatorError when it is gone or is not the file that was recorded."""
        path = folder / self.name
        data = read_bytes(path)
        if sha256_of(data) != self.sha256:
            raise ConservatorError(
                f"{path} has changed since it was added (other sha256); delete it and its record, and add it again"
            )
        return data


def sha256_of(data: bytes) -> str:
    """Content hash, hex."""
    return hashlib.sha256(data).hexdigest()


def read_bytes(path: Path) -> bytes:
    """A file's bytes; raises ConservatorError that names the file when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConservatorError(f"{path} cannot be read: {error.strerror}") from error


def write_tool(folder: Path, weights: WeightsFile, data: bytes, record: BaseModel) -> Path:
    """Write the weights, then the record that makes them a tool; return the record's path, ``NAME.json``.

    Each file appears whole or not at all. Makes a missing folder. Raises ConservatorError where it cannot.
    """
    path = (folder / weights.name).with_suffix(".json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / weights.name) as file:
            file.write(data)
        write_text(path, record.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise ConservatorError(f"{folder} cannot be written: {error.strerror}") from error
    return path
