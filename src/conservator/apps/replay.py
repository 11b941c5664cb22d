"""Repeat a restoration from its record."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from conservator.errors import ConservatorError
from conservator.files import sha256
from conservator.photo import copy_photo, save_photo
from conservator.record import load_record
from conservator.request import OWN
from conservator.restorer import Restorer


def replay_record(record_path: Path, photo_path: Path | None, output: Path | None, overwrite: bool) -> tuple[bool, str]:
    """Apply the toolchain of a record to its input again; return whether the bytes are the same, and a sentence.

    Raises ConservatorError when the input is not the recorded one.
    """
    record = load_record(record_path)
    source = photo_path or Path(record.input.path)
    if not source.is_file():
        raise ConservatorError(f"{source}: the input is not there any more; name it with --photo")
    if sha256(source) != record.input.sha256:
        raise ConservatorError(f"{source}: not the photo of this record (its sha256 differs)")
    if record.request.toolbox.startswith(OWN):
        raise ConservatorError(
            f"{record_path}: its tools were a program's own; replay it there, with Restorer(..., toolbox=...).replay"
        )
    with Restorer(replace(record.request, policy="none")) as restorer:  # nobody has to decide
        result = restorer.replay(restorer.load(source), record.toolchain)
        others = record.other_weights(restorer.toolbox)
    write = copy_photo if record.output.sha256 == record.input.sha256 else save_photo
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / Path(record.output.path).name
        write(result, written)
        same = sha256(written) == record.output.sha256
    if output is not None:
        write(result, output, overwrite=overwrite)
    if same:
        return True, f"the same result to the byte: {' → '.join(record.toolchain) or 'no treatment'}"
    why = f"other weights now: {', '.join(others)}" if others else f"made with {record.versions}"
    return False, f"the result differs from the recorded one ({why})"
