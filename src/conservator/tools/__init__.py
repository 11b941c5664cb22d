"""Tools: restoration models behind one contract."""

from conservator.tools.catalog import TOOLBOXES, make_toolbox
from conservator.tools.check import check_tool
from conservator.tools.tool import Tool, Toolbox, ToolSpec

__all__ = ["TOOLBOXES", "Tool", "ToolSpec", "Toolbox", "check_tool", "make_toolbox"]
