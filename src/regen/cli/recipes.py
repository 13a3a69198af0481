"""The command recipes, and the recipes in the help of train and plan, from an index that needs no torch."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table

from regen.cli.options import Json
from regen.console import print_json, print_table
from regen.io import read_json

INDEX = Path(__file__).parents[1] / "recipes" / "index.json"  # written by tests/test_recipes.py


def recipe_index() -> list[dict[str, Any]]:
    """Name, family, hardware, summary and command of every recipe, by family (`regen.recipes.make_index`)."""
    index: list[dict[str, Any]] = read_json(INDEX)
    return index


def recipes(json: Json = False) -> None:
    """List the recipes of `regen train`, with their hardware and what they make.

    Example: regen recipes

    Args:
        json: Print one JSON list, with the command of each recipe, as the last line of the output.
    """
    index = recipe_index()
    if json:
        print_json(index)
        return
    print_recipes(index)
    print("\nCommand and options of one: regen train RECIPE --help. What it needs: regen plan RECIPE.")


def print_recipe_help(command: str, text: str) -> None:
    """The help of `regen train` or `regen plan` without a recipe."""
    needed = " --data PATH [PATH ...] --out RUN" if command == "train" else ""
    print(f"usage: regen {command} RECIPE{needed} [OPTIONS]\n\n{text}\n")
    print(f"Options, in groups: regen {command} RECIPE --help. The recipes:\n")
    print_recipes(recipe_index())


def print_recipes(index: Sequence[dict[str, Any]]) -> None:
    """A table for each family."""
    for number, (family, members) in enumerate(groupby(index, key=lambda recipe: recipe["family"])):
        print(f"\n{family}" if number else family)
        table = Table("", "", "", show_header=False, box=None, padding=(0, 1))
        for column in table.columns[:2]:
            column.no_wrap = True
        rows = [(f"  {one['name']}", one["hardware"], one["summary"]) for one in members]
        print_table(table, rows)
