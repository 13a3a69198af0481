"""An environment's packages lent to another: those that an installation with some extras has, and no others.

    LENDER/bin/python tools/borrow_packages.py VENV text shards plots

Links what regen with these extras needs into the environment VENV, which takes a second; regen itself is left
out. So a wheel can be tried with exactly its dependencies where an installation of them takes minutes.
"""

import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def required(name: str, extras: set[str], found: dict[str, Distribution], seen: set[tuple[str, str]]) -> None:
    """Add the installed distributions that `name` with these extras needs, itself included, to `found`."""
    try:
        package = found.setdefault(canonicalize_name(name), distribution(name))
    except PackageNotFoundError:  # of a marker that `packaging` can't judge; the commands will tell
        return
    for text in package.requires or []:
        requirement = Requirement(text)
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in extras | {""}
        )
        key = (canonicalize_name(requirement.name), ",".join(sorted(requirement.extras)))
        if wanted and key not in seen:
            seen.add(key)
            required(requirement.name, set(requirement.extras), found, seen)


def lend(extras: set[str], target: Path) -> int:
    """Link the packages into the folder `target`. Returns how many they are."""
    found: dict[str, Distribution] = {}
    required("regen", extras, found, set())
    del found["regen"]
    for package in found.values():
        for first in {
            file.parts[0] for file in package.files or [] if file.parts[0] not in ("..", "__pycache__")
        }:
            source, link = Path(str(package.locate_file(first))), target / first
            if not link.exists():
                link.symlink_to(source, target_is_directory=source.is_dir())
    return len(found)


if __name__ == "__main__":
    (site,) = Path(sys.argv[1]).glob("lib/python*/site-packages")
    print(f"{lend(set(sys.argv[2:]), site)} packages lent")
