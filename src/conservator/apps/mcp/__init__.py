"""The toolbox for assistants, over the Model Context Protocol (MCP): a thin caller of restorer, session and batch.

``offering`` has the tools as an assistant sees them, ``serving`` the two ways to reach them; only these two import the
package ``mcp``. ``workbench`` does the work.
"""
