"""The annotated tree in README.md is the tree on the disk.

The tree is the block of README.md that begins with a line ```text and a line that starts with src/regen/.
Below it, each line is a file or a folder (ending in /), two spaces deeper per level, then what it is for.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def paths_in_tree(readme: str) -> list[str]:
    """Every path that the tree names, relative to the root of the repository."""
    block = re.search(r"^```text\n(src/regen/.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    assert block, "README.md has no block that begins with ```text and src/regen/"
    folders: list[str] = []
    paths = []
    for line in block[1].splitlines():
        indent = len(line) - len(line.lstrip(" "))
        name = line.split()[0]
        assert indent % 2 == 0, f"two spaces per level: {line!r}"
        assert indent // 2 <= len(folders), f"deeper than its folder: {line!r}"
        assert name.endswith("/") or "." in name, f"a file or a folder ending in / stands first: {line!r}"
        folders[indent // 2 :] = [name]
        paths.append("".join(folders))
    return paths


def test_tree_is_read_by_its_indents() -> None:
    readme = "# x\n```text\nsrc/regen/   all\n  a/    one\n    b.py  two\n  c.py  three\n```\n"
    assert paths_in_tree(readme) == ["src/regen/", "src/regen/a/", "src/regen/a/b.py", "src/regen/c.py"]


def test_readme_tree_is_the_disk() -> None:
    named = paths_in_tree((ROOT / "README.md").read_text(encoding="utf-8"))
    sources = (ROOT / "src" / "regen").rglob("*.py")
    on_disk = {file.relative_to(ROOT).as_posix() for file in sources if file.name != "__init__.py"}
    assert sorted(named) == sorted(set(named)), "a path stands in the tree twice"
    assert [path for path in named if not (ROOT / path).exists()] == [], "in README.md, not on the disk"
    assert sorted(on_disk - set(named)) == [], "on the disk, not in README.md"
