"""Hold the code to its budgets of length: python tools/check_budgets.py [FOLDER], by default src."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES = 300
FUNCTION_LINES = 60
SPECIAL_FUNCTION_LINES = {"train": 120, "__init__": 45}
NAMES_THAT_SAY_NOTHING = {"utils", "common", "helpers"}


def offences(file: Path) -> Iterator[str]:
    """What is over budget in one Python file, a sentence each."""
    source = file.read_text(encoding="utf-8")
    for part in {file.stem, file.parent.name} & NAMES_THAT_SAY_NOTHING:
        yield f"{file}: the name {part!r} says nothing; name the one idea that it holds"
    lines = len(source.splitlines())
    if lines > FILE_LINES:
        yield f"{file}: {lines} lines, at most {FILE_LINES}; is there a second idea in it?"
    for node in ast.walk(ast.parse(source, filename=str(file))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            budget = SPECIAL_FUNCTION_LINES.get(node.name, FUNCTION_LINES)
            if length > budget:
                yield f"{file}:{node.lineno}: {node.name} has {length} lines, at most {budget}"


def main(arguments: list[str]) -> int:
    """Print every offence below the folder; the exit status is 1 when there is one."""
    folder = Path(arguments[0] if arguments else "src")
    files = sorted(folder.rglob("*.py"))
    if not files:
        print(f"no Python files below {folder}", file=sys.stderr)
        return 1
    found = [offence for file in files for offence in offences(file)]
    print("\n".join(found) if found else f"{len(files)} files within their budgets")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
