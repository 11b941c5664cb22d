"""Dialects: how a model is asked, and how its answer is written and read."""

from conservator.policies.dialects.dialect import IMAGE, Dialect, Message
from conservator.policies.dialects.plan import PlanDialect
from conservator.policies.dialects.schema import JsonDialect
from conservator.policies.dialects.tools import ToolDialect

__all__ = ["IMAGE", "Dialect", "JsonDialect", "Message", "PlanDialect", "ToolDialect"]
