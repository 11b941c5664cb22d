"""What a user wants done to a photo: the one place of defaults.

The options of the commands are made from it, and every record keeps it. It imports nothing heavy, so that ``--help``
answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from conservator.errors import ConservatorError, name_not_found
from conservator.kinds import Kind, Objective, Preference, Wish

OWN = "own:"
"""Begins the names of what was given as an object, which no catalog knows."""

BASE_URL = "OPENAI_BASE_URL"
"""The environment variable of the endpoint that the policy ``chat`` asks, for those who name none."""


@dataclass(frozen=True)
class ChatOptions:
    """Where the policy ``chat`` asks, and what that may cost. There is no key in it, so it can go into a record."""

    endpoint: str = field(default_factory=lambda: os.environ.get(BASE_URL, ""))
    """The address that /chat/completions is added to, say http://localhost:11434/v1."""
    model: str = ""
    """The model, as the endpoint calls it."""
    allow_upload: bool = False
    """The user's consent to send pictures of the photo to the endpoint."""
    max_calls: int = 8
    """Requests per photo, repeated ones too."""
    timeout: float = 120.0
    """Seconds that an answer may take."""
    retries: int = 3
    """How often a request that failed is sent again."""
    backoff: float = 1.0
    """Seconds before it is sent again; twice as long each time."""
    views: int = 5
    """Pictures that are sent: the whole photo and details at full size."""
    replan: bool = True
    """Ask after each tool; or else once, and carry out that plan."""
    call_tools: bool = False
    """Let the model call the tools as functions, where the endpoint offers that; it sees every picture on the way."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """Fields that are added to each request; None leaves one out."""

    def __str__(self) -> str:
        return f"{self.model} at {self.endpoint}"


@dataclass(frozen=True)
class Request:
    """What a user wants. Raises ConservatorError where a value is out of its range, or two contradict each other."""

    policy: str = "greedy"
    """Who decides: greedy, search, beam, rules, reflect, traverse, stages, r1, mllm, mllm-once, chat, none; dqn (with
    --toolbox rl-restore); tir:FOLDER; or module:Class of your own."""
    toolbox: str = "conservator+user"
    """Toolboxes, joined by +: conservator, classical, user, rl-restore."""
    perception: str = "perception"
    """What looks at the photos: perception or statistics, which ship, or a file of weights."""
    objective: Objective = "balanced"
    """What counts: closeness to the original, a balance, or a pleasing look."""
    strength: float = 1.0
    """1: full treatment; 0.5: half-way to the input; 0: none."""
    only: frozenset[Kind] | None = None
    """The damages to treat, joined by commas (default: all)."""
    never: frozenset[Kind] = frozenset()
    """Damages to leave alone, joined by commas."""
    prefer: Preference = "neither"
    """What counts more where both cannot be had; for mllm, tir and chat, which are told so in words."""
    upscale: bool = False
    """Enlarge photos of less than 300 pixels."""
    adapt_steps: int | None = None
    """Adapt the tools that enlarge to each photo, in so many iterations at most."""
    risk: float = 0.02
    """Of photos like the calibration photos, at most this share may come out worse; 1 switches the check off."""
    thresholds: str = "risk"
    """Risk thresholds: those that ship, or a file made by conservator calibrate."""
    max_steps: int = 12
    """Decisions per photo at most."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "cpu"
    """Torch device: cpu, cuda, mps."""
    max_pixels: int = 200_000_000
    """Refuse photos with more pixels than this."""
    allow_truncated: bool = False
    """Read what is there of a truncated file."""
    chat: ChatOptions | None = None
    """Where the policy chat asks."""

    def __post_init__(self) -> None:
        _check_choice("objective", self.objective, get_args(Objective))
        _check_choice("prefer", self.prefer, get_args(Preference))
        _check_range("strength", self.strength, 0, 1)
        _check_range("risk", self.risk, 0, 1)
        if self.risk == 0:
            raise ConservatorError("risk is 0, which no photo can promise; expected more than 0, at most 1")
        for name, least in {"max_steps": 1, "seed": 0, "max_pixels": 1}.items():
            _check_range(name, getattr(self, name), least)
            _check_type(name, getattr(self, name), int)
        for name in ("policy", "toolbox", "perception", "thresholds", "device"):
            _check_type(name, getattr(self, name), str)
        for name in ("upscale", "allow_truncated"):
            _check_type(name, getattr(self, name), bool)
        if self.adapt_steps is not None:
            _check_range("adapt_steps", self.adapt_steps, 0)
            _check_type("adapt_steps", self.adapt_steps, int)
        if self.chat is not None:
            _check_type("chat", self.chat, ChatOptions)
        if self.only is not None:
            object.__setattr__(self, "only", _kinds("only", self.only))
        object.__setattr__(self, "never", _kinds("never", self.never))
        if both := sorted((self.only or frozenset()) & self.never):
            raise ConservatorError(f"{', '.join(both)} cannot be both in only and in never; leave it out of one")

    @property
    def wish(self) -> Wish:
        """What is wanted beside the objective."""
        return Wish(self.only, self.never, self.prefer)


def as_given(request: Request, *, toolbox: Any, perception: Any, policy: Any, admission: Any) -> Request:
    """The request, telling what was given as an object, if anything, in place of what it names; so do records."""
    own: dict[str, str] = {}
    if toolbox is not None:
        own["toolbox"] = OWN + ",".join(toolbox)
    if perception is not None:
        own["perception"] = OWN + type(perception).__name__
    if policy is not None:
        own["policy"] = OWN + policy.name
    if admission is not None:
        own["thresholds"] = OWN + type(admission.estimate).__name__
    return replace(request, **own)  # type: ignore[arg-type]


def _check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise name_not_found(name, str(value), choices)


def _check_type(name: str, value: object, wanted: type) -> None:
    if not isinstance(value, wanted):
        raise ConservatorError(f"{name} is {value!r}, expected a value of type {wanted.__name__}")


def _kinds(name: str, given: object) -> frozenset[Kind]:
    """A set of kinds, from any collection of them or of their names."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConservatorError(f"{name} is {given!r}, expected a set of kinds, say frozenset({{Kind.NOISE}})")
    try:
        return frozenset(map(Kind, given))
    except ValueError:
        wrong = next(str(kind) for kind in given if kind not in set(Kind))
        raise name_not_found("kind of damage", wrong, Kind) from None


def _check_range(name: str, value: float, least: float, most: float | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConservatorError(f"{name} is {value!r}, expected a number")
    if not value >= least or (most is not None and not value <= most):
        expected = f"{least} or more" if most is None else f"a number from {least} to {most}"
        raise ConservatorError(f"{name} is {value}, expected {expected}")
