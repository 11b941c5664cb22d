"""Commands for tools: list them, import published ones, add or remove your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from conservator.apps.cli.common import DeviceOption

tools_app = typer.Typer(help="List the tools, import published ones, add or remove your own.", no_args_is_help=True)


@tools_app.command("list")
def tools_list(
    toolbox: Annotated[str, typer.Option(help="Toolboxes, joined by +.")] = "conservator+user",
    speed: Annotated[bool, typer.Option(help="Measure seconds per megapixel on this machine.")] = True,
    device: DeviceOption = "cpu",
) -> None:
    """Show the tools: what each removes, its source, licence and speed."""
    from conservator.apps.display import print_tools
    from conservator.tools import make_toolbox

    print_tools(make_toolbox(toolbox), device if speed else None)


@tools_app.command("import")
def tools_import(
    name: Annotated[Literal["rl-restore"], typer.Argument(help="Which published toolbox.")],
    path: Annotated[Path, typer.Argument(help="Its weights: rl_restore.npz.")],
) -> None:
    """Turn published weights into a toolbox of yours."""
    from conservator.tools.rl_restore import import_rl_restore
    from conservator.tools.user import user_tool_dir

    typer.echo(
        f"{import_rl_restore(path, user_tool_dir())}\nuse it with: conservator restore --toolbox {name}:published PHOTO"
    )


@tools_app.command("add")
def tools_add(
    model: Annotated[Path, typer.Argument(help="A checkpoint that spandrel knows (.pth, .safetensors).")],
    removes: Annotated[str, typer.Option(help="What it removes, kinds joined by commas: noise,jpeg.")],
    name: Annotated[str | None, typer.Option(help="The tool's name (default: the file's).")] = None,
    license_: Annotated[str, typer.Option("--license", help="SPDX id of its licence.")] = "unknown",
) -> None:
    """Add a network of somebody else's (needs the extra: pip install 'conservator[spandrel]')."""
    from conservator.kinds import parse_kinds
    from conservator.tools.spandrel import add_spandrel_tool
    from conservator.tools.user import user_tool_dir

    record = add_spandrel_tool(
        model, removes=parse_kinds(removes), name=name, license=license_, destination=user_tool_dir()
    )
    typer.echo(
        f"{record}\nit is now in the toolbox 'user'; take it out again with: conservator tools remove {record.stem}"
    )


@tools_app.command("remove")
def tools_remove(
    name: Annotated[str, typer.Argument(help="A tool that was added, imported or trained here.")],
) -> None:
    """Remove a tool of yours: its record and its weights."""
    from conservator.tools.user import remove_tool

    for path in remove_tool(name):
        typer.echo(f"removed {path}")
