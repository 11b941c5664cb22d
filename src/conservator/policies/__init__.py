"""Policies: who decides the next action."""

from conservator.policies.actor_critic import ActorCritic, ActorCriticPolicy, load_actor_critic
from conservator.policies.catalog import POLICIES, PolicyContext, is_policy, make_policy
from conservator.policies.chat import Chat
from conservator.policies.check import check_policy
from conservator.policies.dqn import Agent, DqnPolicy, load_agent
from conservator.policies.fixed import EXPERT_ORDER, FixedOrder, NoPolicy, RandomPolicy, Rules
from conservator.policies.mllm import MllmPolicy
from conservator.policies.reflect import Reflect
from conservator.policies.search import Beam, EstimatedGain, Greedy, MeasuredGain, Search
from conservator.policies.stages import Staged
from conservator.policies.strategies import Predefined, RandomBoth
from conservator.policies.tool_calling import ToolCallingPolicy

__all__ = [
    "EXPERT_ORDER",
    "POLICIES",
    "ActorCritic",
    "ActorCriticPolicy",
    "Agent",
    "Beam",
    "Chat",
    "DqnPolicy",
    "EstimatedGain",
    "FixedOrder",
    "Greedy",
    "MeasuredGain",
    "MllmPolicy",
    "NoPolicy",
    "PolicyContext",
    "Predefined",
    "RandomBoth",
    "RandomPolicy",
    "Reflect",
    "Rules",
    "Search",
    "Staged",
    "ToolCallingPolicy",
    "check_policy",
    "is_policy",
    "load_actor_critic",
    "load_agent",
    "make_policy",
]
