"""What whoever starts the page decides. It imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from conservator.apps.listening import is_loopback
from conservator.errors import ConservatorError
from conservator.files import reason

PASSWORD = "CONSERVATOR_PASSWORD"
"""The environment variable of the password; an argument could be read by other users."""
_SHORTEST_PASSWORD = 12
"""Characters. A shorter password could be tried out over a network."""


@dataclass(frozen=True)
class WebOptions:
    """Where the page is, which folders it may open, and how large a photo may be."""

    roots: tuple[Path, ...] = field(default=(), metadata={"argument": True})
    """Folders that the page may open and write in, with all in them (default: your home)."""
    host: str = "127.0.0.1"
    """Address to listen on; beyond this machine only with a password."""
    port: int = field(default=7860, metadata={"min": 0, "max": 65535})
    """Port to listen on; 0 takes a free one."""
    password_file: Path | None = None
    """File whose first line is the password (default: the environment variable CONSERVATOR_PASSWORD, if set)."""
    max_upload: float = 1000.0
    """Megabytes that a photo may have."""
    no_browser: bool = False
    """Do not open the page in a browser."""

    def __post_init__(self) -> None:
        if not self.max_upload > 0:
            raise ConservatorError(f"max_upload is {self.max_upload}, expected more than 0")

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that the page may open."""
        return self.roots or (Path.home(),)


def find_password(options: WebOptions, environment: Mapping[str, str]) -> str | None:
    """The password that visitors must give; None for none.

    Raises ConservatorError where others could reach the page without one, and for one that could be tried out.
    """
    password = environment.get(PASSWORD) or None
    if options.password_file is not None:
        try:
            lines = options.password_file.read_text("utf-8").splitlines()
        except OSError as error:
            raise ConservatorError(f"{options.password_file} cannot be read ({reason(error)})") from error
        except UnicodeDecodeError as error:
            raise ConservatorError(
                f"{options.password_file} is no text; write the password into its first line"
            ) from error
        password = lines[0] if lines else ""
    if password is None:
        if not is_loopback(options.host):
            raise ConservatorError(
                f"listening on {options.host} lets other machines in; give --password-file, or leave out --host"
            )
    elif len(password) < _SHORTEST_PASSWORD:
        raise ConservatorError(
            f"the password has {len(password)} characters; give {_SHORTEST_PASSWORD} or more, say those of: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return password
