"""Options of a command, made from a frozen dataclass: its fields are the one place of names, defaults and words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, fields
from functools import wraps
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer

from conservator.apps.field_docs import field_docs
from conservator.errors import ConservatorError
from conservator.kinds import Kind, parse_kinds

_T = TypeVar("_T")


def with_options(
    settings: type[Any],
    parameter: str,
    *,
    leave_out: Collection[str] = (),
    flags: Mapping[str, str] | None = None,
    panel: str | None = None,
) -> Callable[[Callable[..., _T]], Callable[..., _T]]:
    """Give a command one option for each field of a dataclass; it is called with the dataclass as ``parameter``.

    A field ``max_steps: int = 12`` with the docstring "Decisions at most." becomes ``--max-steps`` of that default and
    that help. ``leave_out`` names fields that keep their defaults, ``flags`` other spellings ("--output/-o"), ``panel``
    the group in which ``--help`` shows them. Fields are str, int, float, bool, Path, Literal, a set of kinds, one of
    these or None, or ``tuple[str, ...]`` and the like, whose option is given again for each item. A field without a
    default is required. A field's ``metadata`` goes to ``typer.Option``: ``field(default=1, metadata={"min": 1})``;
    ``"argument": True`` in it makes it an argument.
    """

    def decorate(command: Callable[..., _T]) -> Callable[..., _T]:
        made = [field for field in fields(settings) if field.name not in leave_out]
        hints, words = get_type_hints(settings), field_docs(settings)
        parameters = []
        for parameter_ in inspect.signature(command, eval_str=True).parameters.values():
            if parameter_.name == parameter:
                parameters += [_option(f, hints[f.name], words.get(f.name, ""), flags or {}, panel) for f in made]
            else:
                parameters.append(parameter_)

        @wraps(command)
        def called(**values: Any) -> _T:
            chosen = {field.name: _value(hints[field.name], values.pop(field.name)) for field in made}
            return command(**values, **{parameter: settings(**chosen)})

        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in parameters}
        return called

    return decorate


def _option(field: Field[Any], hint: Any, words: str, flags: Mapping[str, str], panel: str | None) -> inspect.Parameter:
    default: Any = field.default
    named = field.name.replace("_", "-")
    decls = flags.get(field.name, f"--{named}/--no-{named}" if default is True else f"--{named}").split(" ")
    plain = _without_none(hint)
    if _is_kinds(plain):
        plain, default = str, default if default in (None, MISSING) else ",".join(sorted(default))
    if default is None:
        plain = plain | None
    if _is_tuple(plain):
        plain = list[get_args(plain)[0]]  # type: ignore[misc]
        default = default if default is MISSING else list(default)
    shown = default not in ("", False, [])
    told: dict[str, Any] = {"help": words, "rich_help_panel": panel, "show_default": shown, **field.metadata}
    if default is MISSING:
        default = inspect.Parameter.empty
        if field.default_factory is not MISSING:  # made when the command is called: an environment variable may say it
            told |= {"default_factory": field.default_factory, "show_default": False}
    made = typer.Argument(**told) if told.pop("argument", False) else typer.Option(*decls, **told)
    annotation: Any = Annotated[plain, made]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _value(hint: Any, given: Any) -> Any:
    """What the dataclass wants, from what the command line gave."""
    if _is_tuple(hint):
        return tuple(given or ())
    if not _is_kinds(_without_none(hint)):
        return given
    if given is None:
        return None
    if not given:
        if type(None) in get_args(hint):  # a script's empty variable must not mean everything
            raise ConservatorError("an option names no kind of damage; name one, or leave the option out")
        return frozenset()
    return parse_kinds(given)


def _without_none(hint: Any) -> Any:
    """A type without its ``| None``."""
    if get_origin(hint) in (None, Literal, frozenset, tuple):
        return hint
    rest = [part for part in get_args(hint) if part is not type(None)]
    return rest[0] if len(rest) == 1 else hint


def _is_kinds(hint: Any) -> bool:
    return get_origin(hint) is frozenset and get_args(hint) == (Kind,)


def _is_tuple(hint: Any) -> bool:
    return get_origin(hint) is tuple and get_args(hint)[-1] is ...
