"""Every error that this package raises on purpose."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConservatorError(Exception):
    """Base of all errors below: catch this one to catch them all."""


class ImageError(ConservatorError):
    """An image breaks the convention of image.py; the message says which part of it."""


class PhotoError(ConservatorError):
    """A file cannot be read or written as a photo; the message names the file and the reason in one sentence."""


class RecipeError(ConservatorError):
    """A damage recipe cannot be read; the message says which part of it."""


class NameNotFoundError(ConservatorError, KeyError):
    """No tool, metric, policy or degradation has this name; the message offers the nearest ones."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # KeyError would quote the sentence


class ToolFailedError(ConservatorError):
    """A tool could not restore this image. Recorded as a step and shown to the policy, which may choose again.

    Whatever else a tool's own code raises becomes one of these in a pool, the original as its ``__cause__``.
    """


class PoolError(ConservatorError):
    """A call got no answer, and the tool is not to blame: a closed pool, weights that cannot be loaded, a dead worker.

    The caller may call again. It says nothing about the image or the tool, so it must never be recorded as a step's
    error, scored, or paid a reward of 0.
    """


class InvalidActionError(ConservatorError):
    """A policy asked for what is not possible: an unknown step, a tool not in the toolbox. Shown to the policy, too."""


class MissingExtraError(ConservatorError):
    """An optional dependency or its data is missing; the message says how to get it."""


def name_not_found(what: str, name: str, known: Iterable[str]) -> NameNotFoundError:
    """Build the error for an unknown name, with the nearest known ones.

    >>> str(name_not_found("tool", "gama", ["gamma", "clahe"]))
    "no tool 'gama'; did you mean gamma?"
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(known)}"
    return NameNotFoundError(f"no {what} {name!r}; {hint}")
