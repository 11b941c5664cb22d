"""Commands for single photos: degrade, compare, replay, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conservator.apps.cli.common import SeedOption
from conservator.errors import ConservatorError


def degrade_photo(
    photo: Annotated[Path, typer.Argument(help="A clean photo.")],
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="Kinds in order, say rain,noise:high,jpeg, or a recipe's JSON file.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The damaged photo; its recipe goes beside it.")],
    seed: SeedOption = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Damage a photo by a recorded recipe, for tests and training."""
    from conservator.degradations import degrade, load_recipe, parse_recipe, save_recipe
    from conservator.photo import load_photo, save_photo

    written = output.with_suffix(".recipe.json")
    if written.exists() and not overwrite:
        raise ConservatorError(f"{written} exists already; give --overwrite to replace it, or another --output")
    steps = load_recipe(Path(recipe)) if recipe.endswith(".json") else parse_recipe(recipe, seed)
    source = load_photo(photo)
    save_photo(source.with_image(degrade(source.image, steps)), output, overwrite=overwrite)
    save_recipe(steps, written)
    typer.echo(f"{output}\n{written}")


def compare(
    image: Annotated[Path, typer.Argument(help="The photo to assess.")],
    reference: Annotated[Path, typer.Argument(help="The undamaged photo.")],
    metrics: Annotated[
        str, typer.Option(help="Metric names joined by commas; 'all' adds those of installed extras.")
    ] = "",
) -> None:
    """Print the quality of a photo against a reference, and what no-reference metrics say of both."""
    from conservator.apps.display import print_comparison
    from conservator.photo import load_photo

    print_comparison(load_photo(image).image, load_photo(reference).image, metrics)


def replay(
    record: Annotated[Path, typer.Argument(help="NAME.conservator.json of an earlier restoration.")],
    photo: Annotated[Path | None, typer.Option("--photo", help="The input, when it has moved.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the result here too.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Repeat a restoration from its record and say whether the result is the same to the byte."""
    from conservator.apps.replay import replay_record

    same, message = replay_record(record, photo, output, overwrite)
    typer.echo(message)
    raise typer.Exit(0 if same else 1)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path("out"),
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="Damage to do to it.")] = "rain,noise,jpeg:low",
    seed: SeedOption = 5,
) -> None:
    """Damage a sample photo, restore it, and print the gain."""
    from conservator.apps.demo import run_demo

    run_demo(output, recipe, seed)
