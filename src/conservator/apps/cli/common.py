"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

DeviceOption = Annotated[str, typer.Option(help="Torch device: cpu, cuda, mps.")]
MaxPixelsOption = Annotated[int, typer.Option(min=1, help="Refuse photos with more pixels than this.")]
TruncatedOption = Annotated[bool, typer.Option("--allow-truncated", help="Read what is there of a truncated file.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Threads that compute.")]
