"""Where a face that is reached over the network listens, and who is asking."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from conservator.errors import ConservatorError
from conservator.files import reason


def is_loopback(host: str) -> bool:
    """Whether an address or a name means this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def is_own(host: str, origin: str | None) -> bool:
    """Whether a request was made by a program of this machine, not by a stranger's page in its browser.

    Such a page can send a form to any address; its browser then says whose page it is, in the header Origin. And it can
    call this machine by a name of its own, which then stands in the header Host.
    """
    return is_loopback(_without_port(host)) and origin in (None, f"http://{host}")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() and (name.endswith("]") or ":" not in name) else host


@contextmanager
def listening_at(host: str, port: int) -> Iterator[socket.socket]:
    """A socket bound to where others are expected; port 0 takes a free one. Raises ConservatorError where it cannot."""
    where = f"{host}, port {port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConservatorError(f"cannot listen on {where} ({reason(error)}); give another --host") from error
    with found:
        try:
            if os.name == "posix":
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart finds its port again
            found.bind(address)
        except OSError as error:
            raise ConservatorError(f"cannot listen on {where} ({reason(error)}); give another --port") from error
        yield found
