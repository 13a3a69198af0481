"""The annotated tree of the package in docs/architecture.md: python tools/tree.py [--write].

Each line is a file and the first sentence of its docstring.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BLOCK = re.compile(r"^```text\nsrc/regen/\n.*?^```\n", flags=re.MULTILINE | re.DOTALL)


def tree_lines(folder: Path, depth: int = 1) -> Iterator[str]:
    """Files before folders, both sorted, two spaces deeper per level."""
    files = sorted(file for file in folder.glob("*.py") if not file.name.startswith("__"))
    for file in files:
        yield f"{'  ' * depth}{file.name:<{26 - 2 * depth}}{summary(file)}"
    for child in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield f"{'  ' * depth}{child.name + '/':<{26 - 2 * depth}}{summary(child / '__init__.py')}"
        yield from tree_lines(child, depth + 1)


def summary(file: Path) -> str:
    """The first sentence of a module's docstring."""
    lines = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").splitlines()
    return re.split(r"\. |\.$|:$", lines[0])[0] if lines else ""


def page_with_tree() -> str:
    """The page with its tree as the package is now."""
    text = "```text\nsrc/regen/\n" + "\n".join(tree_lines(ROOT / "src" / "regen")) + "\n```\n"
    return BLOCK.sub(lambda _: text, PAGE.read_text(encoding="utf-8"), count=1)


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page_with_tree(), encoding="utf-8")
    print(BLOCK.search(page_with_tree())[0])  # type: ignore[index]
