"""The short way from a file to a restored photo, with the defaults of the command line."""

from __future__ import annotations

from pathlib import Path

from conservator.perception.eyes import NetworkPerception
from conservator.perception.perception import Objective, Percept
from conservator.perception.study import study
from conservator.photo import load_photo
from conservator.policies.catalog import PolicyContext, check_policy_name, make_policy
from conservator.policies.endpoint import ChatOptions
from conservator.pool import LocalPool, MemoPool
from conservator.restoration import Restored, restore
from conservator.tools.catalog import DEFAULT_TOOLBOX, make_toolbox

DEFAULT_POLICY = "greedy"


def restore_file(
    path: str | Path,
    *,
    policy: str = DEFAULT_POLICY,
    toolbox: str = DEFAULT_TOOLBOX,
    objective: Objective = "balanced",
    strength: float = 1.0,
    seed: int = 0,
    upscale: bool = False,
    device: str = "cpu",
    chat: ChatOptions | None = None,
) -> Restored:
    """Restore the photo in a file; write the result with ``save_photo(restored.photo, path)``.

    ``chat`` says where the policy "chat" asks, and that it may. Raises PhotoError when the file cannot be read as a
    photo, NameNotFoundError for an unknown policy or toolbox.
    """
    check_policy_name(policy, reference=False, chat=chat)
    photo = load_photo(path)
    tools = make_toolbox(toolbox)
    perception = NetworkPerception()
    with MemoPool(LocalPool(tools, device, max_batch=1)) as pool:
        context = PolicyContext(pool, perception, objective, seed, upscale, device=device, chat=chat)
        return restore(photo, make_policy(policy, context), tools, pool, perception, strength=strength)


def examine_file(path: str | Path) -> Percept:
    """Look at the photo in a file and say what is wrong with it; raises PhotoError when it cannot be read."""
    return NetworkPerception().perceive(study(load_photo(path).working_image()))
