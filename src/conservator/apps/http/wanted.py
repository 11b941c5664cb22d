"""What a client may ask for: a model made from the fields of ``Request``, less what is the operator's to decide.

A field that is added to ``Request`` is offered of itself where its values cannot name a file, a module or an address:
numbers, switches, choices, kinds of damage. Text is offered only where ``_NAMES`` says which names there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pydantic
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from conservator.apps.field_docs import field_docs
from conservator.errors import ConservatorError, name_not_found
from conservator.kinds import Kind
from conservator.request import Request

_OPERATORS = frozenset({"max_pixels"})
"""Fields that would be safe to take, and are limits of the server's own."""
_SEARCH = re.compile(r"search:[1-9]\d{0,4}")
"""The one policy whose name holds a number: a budget of calls, which the seconds of a job limit, too."""
PERCEPTIONS = ("perception", "statistics")
"""The perceptions that ship; another name would be the path of a file."""


class Offers(BaseModel):
    """The names that a request may hold, as a worker found them on this machine."""

    policies: list[str]
    toolboxes: dict[str, list[str]]
    """The names of the tools of each toolbox."""
    tools: dict[str, dict[str, Any]]
    """What is said of each tool."""
    suffixes: list[str]
    """Suffixes of photos that can be read, lower case, with the dot."""
    formats: list[str]
    """Formats that results can be written in."""

    def tools_of(self, toolbox: str) -> list[str]:
        """The names of the tools in toolboxes that are joined by "+"; raises NameNotFoundError for an unknown one."""
        for name in toolbox.split("+"):
            _check_name("toolbox", name, self.toolboxes)
        return list(dict.fromkeys(tool for name in toolbox.split("+") for tool in self.toolboxes[name]))


def _check_name(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise name_not_found(what, name[:80], known)


def _check_policy(name: str, offers: Offers) -> None:
    if not _SEARCH.fullmatch(name):
        _check_name("policy", name, offers.policies)


_NAMES: Mapping[str, Callable[[str, Offers], object]] = {
    "policy": _check_policy,
    "toolbox": lambda name, offers: offers.tools_of(name),
    "perception": lambda name, offers: _check_name("perception", name, PERCEPTIONS),
}
"""What checks the names that a field of text may hold. No file of the server's can be named through one of them."""
_WORDS = {
    "policy": "Who decides: one of the policies of GET /v1/tools, or search:CALLS with a number of calls of tools.",
    "toolbox": "Toolboxes of GET /v1/tools, joined by +.",
    "perception": f"What looks at the photo: {' or '.join(PERCEPTIONS)}.",
    "only": "The kinds of damage to treat; null for all.",
    "never": "Kinds of damage to leave alone.",
}
"""What is said of fields whose words in ``Request`` are for the command line."""


def is_offered(field: Field[Any], hint: Any) -> bool:
    """Whether clients may set a field of a request."""
    return field.name not in _OPERATORS and (field.name in _NAMES or _is_harmless(hint))


def _is_harmless(hint: Any) -> bool:
    """Whether no value of a type can name anything outside this program."""
    if get_origin(hint) is Literal or hint in (bool, int, float, type(None), Kind):
        return True
    inner = [part for part in get_args(hint) if part is not ...]
    return bool(inner) and all(map(_is_harmless, inner))


def _described(field: Field[Any], hint: Any, words: str) -> tuple[Any, Any]:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return hint, pydantic.Field(default=default, description=words)


def _make_model() -> type[BaseModel]:
    hints, words = get_type_hints(Request), field_docs(Request)
    offered = [field for field in fields(Request) if is_offered(field, hints[field.name])]
    made: dict[str, Any] = {
        f.name: _described(f, hints[f.name], _WORDS.get(f.name) or words.get(f.name, "")) for f in offered
    }
    config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"objective": "fidelity", "never": ["haze"], "strength": 0.8}]},
    )
    return create_model(
        "RestorationRequest", __config__=config, __doc__="What you want; leave out what you do not.", **made
    )


WANTED = _make_model()
"""The model of the JSON that a client sends as ``request``."""


def read_wanted(text: str, offers: Offers) -> dict[str, Any]:
    """The fields of a request from a client's JSON, checked, as JSON holds them; raises ConservatorError."""
    try:
        model = WANTED.model_validate_json(text or "{}")
    except ValidationError as error:
        raise ConservatorError(_in_words(error)) from None
    for name, check in _NAMES.items():
        check(getattr(model, name), offers)
    wanted: dict[str, Any] = model.model_dump(mode="json")
    as_request(wanted)  # what its values say together
    return wanted


def as_request(wanted: Mapping[str, Any], **limits: Any) -> Request:
    """The request of fields that were read from JSON, and of the server's own; raises ConservatorError."""
    return Request(**wanted, **limits)


def _in_words(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part)[:80] for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return str(name_not_found("field of a request", where, WANTED.model_fields))
    if first["type"] == "json_invalid":
        return f'the request is no JSON ({first["msg"]}); send an object, say {{"objective": "fidelity"}}'
    return f"request.{where}: {first['msg']}" if where else f"the request: {first['msg']}"
