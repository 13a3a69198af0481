"""Self-contained modules: every public class needs diffusers, einops and jaxtyping, and nothing else."""

import ast
import re
import sys

import pytest

from regen import vendoring
from regen.public import MODULES
from regen.vendoring import ALLOWED, NAMED, vendored

# The lines that diffusers takes for imports.
IMPORT = re.compile(r"^\s*(?:import\s+(\S+)\s*$|from\s+(\S+)\s+import)", flags=re.MULTILINE)


def imports(text: str) -> set[str]:
    """Packages outside the standard library that a text imports."""
    modules = ("".join(groups).split(".")[0] for groups in IMPORT.findall(text))
    return {*modules} - sys.stdlib_module_names


@pytest.mark.parametrize("name", MODULES)
def test_every_class_can_be_vendored(name):
    text = vendored([name])
    ast.parse(text)
    assert imports(text) == set(NAMED), (
        "no line that diffusers takes for an import of this package or of a file"
    )
    sources = text.replace("\n| ", "\n")
    imported = imports(sources)
    (package,) = {module for module in imported if module.startswith("regen_")}
    assert imported <= {*ALLOWED, *NAMED, package}
    assert f'PACKAGE = "{package}"' in text and "regen.train" not in text


def test_files_with_the_same_sources_share_one_package():
    names = {"AutoencoderRegen", "LatentGenerator"}
    packages = {re.search(r'PACKAGE = "(\w+)"', vendored([name], names))[1] for name in names}
    alone = re.search(r'PACKAGE = "(\w+)"', vendored(["AutoencoderRegen"]))
    assert len(packages) == 1 and alone[1] not in packages


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import av\nclass AutoencoderRegen:\n    x = av\n", "needs the package av"),
        ("print(1)\nclass AutoencoderRegen:\n    pass\n", r"embedders/regen.py:1 can't be vendored"),
    ],
)
def test_what_can_not_be_vendored_is_named(source, message, tmp_path, monkeypatch):
    (tmp_path / "embedders").mkdir()
    (tmp_path / "embedders" / "regen.py").write_text(source)
    monkeypatch.setattr(vendoring, "ROOT", tmp_path)
    vendoring._sources.cache_clear()
    with pytest.raises(ValueError, match=message):
        vendored(["AutoencoderRegen"])
    vendoring._sources.cache_clear()
