"""Packages that another machine lacks, and how to carry them there: python tools/wheels.py INSTALLED.txt

INSTALLED.txt is the output of `python3 -m pip list --format freeze` on that machine. Compared are the
dependencies of regen and its GPU tests and theirs, as they are installed here.
"""

import argparse
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

NEEDED_BY_TESTS = ("pytest", "hypothesis")


def closure(roots: list[Requirement], seen: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Name and version of each package that `roots` need, as installed here."""
    for need in roots:
        name = canonicalize_name(need.name)
        if name in seen:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        seen[name] = found.version
        yield name, found.version
        inner = [Requirement(text) for text in found.requires or ()]
        yield from closure([one for one in inner if applies(one, need.extras or {""})], seen)


def applies(need: Requirement, extras: set[str]) -> bool:
    """Whether a requirement holds on this machine with one of these extras."""
    return need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras)


def missing(installed: Path) -> list[tuple[str, str]]:
    """What regen and its GPU tests need and the machine has in no version that will do."""
    have: dict[str, str] = {}
    for line in installed.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==(\S+)", line):
            have[canonicalize_name(match[1])] = match[2]
    roots = [Requirement(text) for text in distribution("regen").requires or ()]
    roots = [one for one in roots if applies(one, {""})]
    ranges: dict[str, SpecifierSet] = {canonicalize_name(one.name): one.specifier for one in roots}
    needed = closure([*roots, *map(Requirement, NEEDED_BY_TESTS)], {"torch": ""})
    return [
        (name, version)
        for name, version in needed
        if name not in have or not ranges.get(name, SpecifierSet()).contains(have[name], True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("installed", type=Path)
    parser.add_argument("--python", default="3.12", help="version of Python on the machine")
    options = parser.parse_args()
    wheels = " ".join(f"{name}=={version}" for name, version in missing(options.installed))
    if not wheels:
        print("The machine has all that regen needs.")
        return
    print(
        f"# Here:\npython3 -m pip download --no-deps --only-binary=:all: --python-version {options.python} "
        f"--platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d wheels {wheels}\n"
        "# There, beside a copy of the repository:\n"
        "python3 -m pip install --no-index --no-deps --target site wheels/*.whl\n"
        "export PYTHONPATH=$PWD/site:$PWD/src"
    )


if __name__ == "__main__":
    main()
