"""What whoever runs ``conservator serve`` decides. It imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from conservator.apps.listening import is_loopback
from conservator.errors import ConservatorError

TOKEN = "CONSERVATOR_TOKEN"
"""The environment variable of the token that clients must send; an argument could be read by other users."""


@dataclass(frozen=True)
class ServeOptions:
    """Where the API listens, where its jobs live, and what one client may cost the others."""

    data: Path
    """Folder of the jobs with their photos and results; it is made where there is none."""
    host: str = "127.0.0.1"
    """Address to listen on; beyond this machine only with a token in CONSERVATOR_TOKEN."""
    port: int = field(default=8000, metadata={"min": 0, "max": 65535})
    """Port to listen on; 0 takes a free one."""
    jobs: int = field(default=1, metadata={"min": 1})
    """Photos treated at the same time, each in a process of its own with its own models (about 0.5 GB and more)."""
    keep: float = 24.0
    """Hours that an ended job is kept, with its photo and its result."""
    max_upload: float = 64.0
    """Megabytes that an upload may have."""
    max_pixels: int = 50_000_000
    """Refuse photos, and results that are asked for by name, with more pixels than this."""
    max_queue: int = field(default=100, metadata={"min": 1})
    """Jobs that may wait; further ones are refused until there is room."""
    max_seconds: float = 600.0
    """Seconds that a job may be at work; then it is ended, and has failed."""
    max_upload_seconds: float = 120.0
    """Seconds that an upload may take."""
    device: str = "cpu"
    """Torch device: cpu, cuda, mps."""

    def __post_init__(self) -> None:
        for name in ("keep", "max_upload", "max_seconds", "max_upload_seconds"):
            if not getattr(self, name) > 0:
                raise ConservatorError(f"{name} is {getattr(self, name)}, expected more than 0")
        for name in ("jobs", "max_queue", "max_pixels"):
            if getattr(self, name) < 1:
                raise ConservatorError(f"{name} is {getattr(self, name)}, expected 1 or more")

    @property
    def max_bytes(self) -> int:
        """Bytes that the body of a request may have."""
        return int(self.max_upload * 1_000_000)

    @property
    def on_loopback(self) -> bool:
        """Whether only programs of this machine can reach it."""
        return is_loopback(self.host)


def check_token(options: ServeOptions, token: str | None) -> None:
    """Raise ConservatorError where it would listen beyond this machine without a token, or with one that is no secret.

    A token of 16 characters is what 12 random bytes make in base64: more than can be guessed over a network.
    """
    if token is None and not options.on_loopback:
        raise ConservatorError(
            f"listening on {options.host} lets other machines in; put a token into {TOKEN}, or leave out --host"
        )
    if token is not None and (len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token):
        raise ConservatorError(
            f"the token in {TOKEN} has {len(token)} characters; expected 16 or more of ASCII, no spaces, say from: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
