"""What other installed packages offer through entry points, and objects that a user names as ``module:name``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from conservator.errors import ConservatorError


@dataclass(frozen=True)
class Offer:
    """What one entry point of an installed package names."""

    name: str
    value: Any
    where: str
    """Whose it is, in words that begin a sentence."""

    def refused(self, why: str) -> ConservatorError:
        """The error for an offer that will not do."""
        return ConservatorError(f"{self.where}, but {why}")


def offered(group: str) -> Iterator[Offer]:
    """Load the entry points of a group, say ``conservator.metrics``, one by one, in the order of their names.

    Raises ConservatorError, which names the package, for one that cannot be loaded: it is somebody else's code.
    """
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        package = point.dist.name if point.dist else "an unknown package"
        what = group.removeprefix("conservator.")
        offer = Offer(point.name, None, f"the package {package} offers {what} as {point.name} = {point.value}")
        try:
            value = point.load()
        except Exception as error:
            raise offer.refused(f"that failed: {type(error).__name__}: {error}") from error
        yield Offer(offer.name, value, offer.where)


def is_dotted(name: str) -> bool:
    """Whether a name is of the form ``package.module:name``."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))


def load_dotted(name: str) -> Any:
    """The object that ``package.module:name`` names, in an installed package or beside where the program was started.

    Raises ConservatorError where there is no such module or no such name in it, or where the module's code fails.
    """
    module, _, attribute = name.partition(":")
    try:
        with _here():
            found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module + ".").startswith(error.name + "."):
            raise ConservatorError(f"{name}: the module {module} cannot be loaded: {error}") from error
        beside = f"{module.split('.')[0]}.py"
        raise ConservatorError(
            f"{name}: there is no module {module}; start the program where {beside} lies, or install it"
        ) from None
    except Exception as error:
        raise ConservatorError(f"{name}: the module {module} failed: {type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConservatorError(f"{name}: there is no {attribute} in {module}")
        found = getattr(found, part)
    return found


@contextmanager
def _here() -> Iterator[None]:
    """Let modules be found in the current folder, after all others, so that none there takes the place of one."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)
