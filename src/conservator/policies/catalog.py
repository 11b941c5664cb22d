"""The policies that ship, by name. A new policy is one class in its file and one line here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from conservator.errors import ConservatorError, NameNotFoundError, name_not_found
from conservator.extensions import is_dotted, load_dotted, offered
from conservator.image import Image
from conservator.kinds import NO_WISH, Wish
from conservator.perception.perception import Blind, Objective, Perception
from conservator.policies.actor_critic import ActorCriticPolicy, load_actor_critic, shipped_actor_critic
from conservator.policies.chat import Chat
from conservator.policies.dqn import DqnPolicy, load_agent, published_agent, shipped_agent
from conservator.policies.endpoint import check_options
from conservator.policies.fixed import NoPolicy, RandomPolicy, Rules
from conservator.policies.mllm import MllmPolicy
from conservator.policies.reflect import Reflect
from conservator.policies.search import Beam, EstimatedGain, Greedy, MeasuredGain, Search
from conservator.policies.stages import IMAGING_PROCESS, ONE_BY_ONE, Staged
from conservator.policies.strategies import Predefined, RandomBoth
from conservator.policies.tool_calling import ToolCallingPolicy
from conservator.policies.vision_language import load_model, shipped_model
from conservator.pool import Pool
from conservator.request import ChatOptions
from conservator.session.session import Policy
from conservator.tools.tool import Toolbox


@dataclass(frozen=True)
class PolicyContext:
    """What a policy may be built from."""

    pool: Pool
    perception: Perception
    objective: Objective = "balanced"
    seed: int = 0
    reference: Image | None = None
    """The undamaged photo's study; only for the oracle."""
    device: str = "cpu"
    """Where a large model runs."""
    chat: ChatOptions | None = None
    """Where the policy chat asks; only for that one."""
    toolbox: Toolbox | None = None
    """The tools that the policy will be offered, all or some of them; for those that know tools by name."""
    wish: Wish = NO_WISH
    """What the user wants beside the objective; for those that ask a model."""


def _greedy(context: PolicyContext) -> Greedy:
    return Greedy(context.pool, context.perception, objective=context.objective)


def _search(context: PolicyContext, calls: int = 24, name: str = "search") -> Search:
    return Search(_greedy(context), EstimatedGain(context.perception, context.objective), calls, name)


def _oracle(context: PolicyContext) -> Greedy:
    if context.reference is None:
        raise ConservatorError("the oracle policy compares with the undamaged photo; give it a reference")
    scoring = MeasuredGain(context.reference)
    return Greedy(context.pool, Blind(), scoring, margin=0.02, suspects=False, name="oracle")


def _chat(context: PolicyContext) -> Chat:
    options = context.chat or ChatOptions()
    return Chat(options, context.perception, context.objective, context.seed, context.wish)


POLICIES: Mapping[str, Callable[[PolicyContext], Policy]] = {
    "greedy": _greedy,
    "search": _search,
    "rules": lambda context: Rules(context.perception, context.objective),
    "beam": lambda context: Beam(_greedy(context)),
    "reflect": lambda context: Reflect(context.perception, context.objective),
    "traverse": lambda context: Staged(ONE_BY_ONE, context.pool, context.perception, context.objective, "traverse"),
    "stages": lambda context: Staged(IMAGING_PROCESS, context.pool, context.perception, context.objective),
    "random": lambda context: RandomPolicy(context.seed),
    "random_both": lambda context: RandomBoth(context.seed),
    "predefined": lambda context: Predefined(),
    "none": lambda context: NoPolicy(),
    "oracle": _oracle,
    "dqn": lambda context: DqnPolicy(shipped_agent(), toolbox=context.toolbox),
    "dqn:compact": lambda context: DqnPolicy(shipped_agent("dqn_compact"), "dqn:compact", context.toolbox),
    "mllm": lambda context: _mllm("mllm", "", context),
    "mllm-once": lambda context: _mllm("mllm-once", "", context),
    "dqn:published": lambda context: DqnPolicy(published_agent(), "dqn:published", context.toolbox),
    "chat": _chat,
    "r1": lambda context: ActorCriticPolicy(shipped_actor_critic(), context.perception, toolbox=context.toolbox),
}


def _mllm(name: str, path: str, context: PolicyContext) -> MllmPolicy:
    """A multimodal language model; without a path the one that ships."""
    model = load_model(path, context.device) if path else shipped_model()
    once = name.partition(":")[0] == "mllm-once"
    return MllmPolicy(
        model, context.perception, context.objective, name, once, toolbox=context.toolbox, wish=context.wish
    )


_WITH_MORE: Mapping[str, Callable[[str, str, PolicyContext], Policy]] = {
    "dqn": lambda name, path, context: DqnPolicy(load_agent(Path(path)), name, context.toolbox),
    "mllm": _mllm,
    "mllm-once": _mllm,
    "r1": lambda name, path, context: ActorCriticPolicy(
        load_actor_critic(Path(path)), context.perception, name, context.toolbox
    ),
    "tir": lambda name, path, context: ToolCallingPolicy(
        load_model(path, context.device), context.perception, context.objective, name, context.toolbox, context.wish
    ),
    "search": lambda name, calls, context: _search(context, int(calls), name),
}
"""Policies whose name says more: what a user trained ("dqn:FILE", "r1:FILE", "mllm:FOLDER"), and a budget
("search:CALLS")."""

_TOLD = ("mllm", "mllm-once", "tir", "chat")
"""The policies that ask a model, which is told what the user wishes."""
POLICY_GROUP = "conservator.policies"
"""The group of entry points by which installed packages offer policies, each under its own name."""


def make_policy(name: str, context: PolicyContext) -> Policy:
    """Build a policy by name; "dqn:FILE" and "r1:FILE" are of your own, "mllm:FOLDER" is a vision-language model.

    "search:CALLS" may try about so many tools on the study; it finishes the round that it has begun. "module:Class" is
    one of your own, and so is a name that an installed package offers as an entry point of ``conservator.policies``: a
    policy, or a class or function that makes one, from a PolicyContext if it takes an argument.

    Raises NameNotFoundError with the nearest names, ConservatorError where somebody else's code fails.
    """
    if name in POLICIES:
        return POLICIES[name](context)
    return _own(name, POLICIES)(context)


def _own(name: str, offered_names: Iterable[str]) -> Callable[[PolicyContext], Policy]:
    """What makes a policy that does not ship; NameNotFoundError, which offers these names, where there is none."""
    kind, _, more = name.partition(":")
    if kind in _WITH_MORE:
        fits = re.fullmatch(r"[1-9]\d{0,4}", more) if kind == "search" else more and Path(more).exists()
        if fits:
            return partial(_WITH_MORE[kind], name, more)
    elif is_dotted(name):
        value = load_dotted(name)
        if not callable(value) and not hasattr(value, "act"):
            raise ConservatorError(f"the policy {name} is {value!r}, expected a policy, or a class that makes one")
        return partial(_made, value, f"the policy {name}")
    installed = {offer.name: offer for offer in offered(POLICY_GROUP)}
    if name in installed:
        return partial(_made, installed[name].value, installed[name].where)
    if name in _WITH_MORE:
        raise NameNotFoundError(f"no weights of the policy {name} ship; train your own, and give --policy {name}:PATH")
    raise name_not_found("policy", name, [*offered_names, *installed])


def _made(value: Any, where: str, context: PolicyContext) -> Policy:
    """A policy from somebody else's object: itself, or a class or function, called with the context if it takes one."""
    try:
        if isinstance(value, type) or not hasattr(value, "act"):
            value = value(context) if inspect.signature(value).parameters else value()
    except Exception as error:
        raise ConservatorError(f"{where} cannot be made: {type(error).__name__}: {error}") from error
    if not callable(getattr(value, "act", None)) or not isinstance(getattr(value, "name", None), str):
        raise ConservatorError(
            f"{where} gave a {type(value).__name__}, expected a policy: an object with a name and act(observation)"
        )
    policy: Policy = value
    return policy


def is_policy(name: str) -> bool:
    """Whether there is such a policy."""
    try:
        return name in POLICIES or bool(_own(name, POLICIES))
    except NameNotFoundError:
        return False


def check_policy_name(name: str, reference: bool, chat: ChatOptions | None = None, wish: Wish = NO_WISH) -> None:
    """Raise before any work when there is no such policy, or when what it needs is not there.

    That is a reference for the oracle, and for chat an endpoint, a model and the permission to upload. A preference is
    for those that ask a model, for "none", which treats nothing, and for your own, which get it in their context.
    """
    if name not in POLICIES:
        _own(name, (known for known in POLICIES if reference or known != "oracle"))
    ours = {known.partition(":")[0] for known in (*POLICIES, *_WITH_MORE)} - {*_TOLD, "none"}
    if wish.prefer != "neither" and name.partition(":")[0] in ours:
        raise ConservatorError(
            f"the policy {name} knows no preference (--prefer {wish.prefer}); take one of {', '.join(_TOLD)}, or leave "
            "--prefer out"
        )
    if name == "oracle" and not reference:
        raise ConservatorError("the oracle policy compares with the undamaged photo; it is for benchmarks only")
    if name == "chat":
        check_options(chat or ChatOptions())
