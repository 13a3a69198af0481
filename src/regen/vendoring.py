"""Self-contained modules: what a class needs of this package, in one file that works without it.

diffusers copies a single file for each model of a pipeline, so the sources of all modules stand in it as
text. Of each module only the statements are taken that the class needs, so that those for training and for
files, and the packages that they import, stay out.
"""

import ast
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from regen.public import MODULES

ROOT = Path(__file__).parent
PACKAGE = "regen"
# What diffusers needs itself, and the two packages that it does not.
ALLOWED = frozenset({"torch", "numpy", "PIL", "diffusers", "safetensors", "huggingface_hub", "transformers"})
NAMED = ("einops", "jaxtyping")
PLACEHOLDER = "_regen_sources_"  # of the name of the package, which has the hash of the sources

TEMPLATE = '''"""{classes} of regen, to load with diffusers by trust_remote_code=True.

Everything is in this file: each text in SOURCES is a module of the package regen, without what only training
and files need. Apart from diffusers only einops and jaxtyping are needed.
"""

import linecache
import sys
from types import ModuleType

# Named here so that diffusers reports them when they are missing.
import einops
import jaxtyping

PACKAGE = "{package}"  # files with the same sources share one package
SOURCES = {{
{sources}}}


def load(name, text):
    """Make a module of a text, whose lines begin with a bar."""
    full = f"{{PACKAGE}}.{{name}}"
    if full in sys.modules:
        return
    source = "".join(line[2:] + "\\n" for line in text.splitlines()[1:])
    module = sys.modules[full] = ModuleType(full)
    module.__file__ = __file__
    linecache.cache[full] = (len(source), None, source.splitlines(True), full)
    try:
        exec(compile(source, full, "exec"), vars(module))
    except BaseException:
        del sys.modules[full]
        raise


sys.modules.setdefault(PACKAGE, ModuleType(PACKAGE))
for name, text in SOURCES.items():
    load(name, text)

{exports}
'''


@dataclass
class Module:
    """A module of the package: its statements, and where its names come from."""

    source: str
    statements: list[ast.stmt]
    defined: dict[str, list[int]] = field(default_factory=dict)
    """Names to the statements that define them."""
    effects: list[int] = field(default_factory=list)
    """The statements that define no name."""
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Names to (module, name in it); the name is empty for a whole module."""

    def uses(self, index: int) -> set[str]:
        """Names that a statement reads."""
        return {node.id for node in ast.walk(self.statements[index]) if isinstance(node, ast.Name)}


def vendored(class_names: Iterable[str], needed: Iterable[str] = ()) -> str:
    """The text of a self-contained module with these public classes of the package.

    `needed` are classes that its package must have as well, so that it is that of other files. Raises
    ValueError for a class that needs a package which diffusers does not bring.
    """
    exported = [(MODULES[name], name) for name in class_names]
    sources = _sources(frozenset([*exported, *((MODULES[name], name) for name in needed)]))
    digest = hashlib.blake2b("".join(sources.values()).encode(), digest_size=6).hexdigest()
    package = f"{PACKAGE}_{digest}"
    texts = []
    for module, source in sources.items():
        assert "'''" not in source, module
        barred = "".join(f"| {line}\n" for line in source.replace(PLACEHOLDER, package).splitlines())
        texts.append(f"    {module.removeprefix(f'{PACKAGE}.')!r}: r'''\n{barred}''',\n")
    exports = [
        f'{name} = sys.modules[f"{{PACKAGE}}.{module.removeprefix(PACKAGE + ".")}"].{name}'
        for module, name in exported
    ]
    classes = ", ".join(name for _, name in exported)
    return TEMPLATE.format(
        classes=classes,
        package=package,
        sources="".join(texts),
        exports="\n".join(exports),
    )


@dataclass
class Slice:
    """The statements of some modules that certain names need."""

    modules: dict[str, Module] = field(default_factory=dict)
    statements: dict[str, set[int]] = field(default_factory=dict)
    """Of each module, the numbers of the statements needed."""
    names: dict[str, set[str]] = field(default_factory=dict)
    """Of each module, the names needed."""

    @classmethod
    def of(cls, roots: Iterable[tuple[str, str]]) -> "Slice":
        """What these names need: each is (module, name in it), the name empty for the whole module."""
        found, waiting = cls(), sorted(roots)
        while waiting:
            name, wanted = waiting.pop()
            if name not in found.modules:
                found.modules[name], found.statements[name], found.names[name] = _parse(name), set(), set()
            module = found.modules[name]
            for each in [wanted] if wanted else [*module.defined, *module.imported, ""]:
                waiting += found._add(name, each)
        return found

    def _add(self, module_name: str, name: str) -> Iterator[tuple[str, str]]:
        """Add a name, or ("") the statements that define none, and yield what they need in turn."""
        module = self.modules[module_name]
        if name in self.names[module_name]:
            return
        self.names[module_name].add(name)
        if name in module.imported and module.imported[name][0].split(".")[0] == PACKAGE:
            yield module.imported[name]
        new = set(module.defined.get(name, ()) if name else module.effects) - self.statements[module_name]
        self.statements[module_name] |= new
        yield from ((module_name, used) for index in new for used in module.uses(index))

    def ordered(self) -> list[str]:
        """The modules, each after those that it imports; imports have no cycles."""
        done: list[str] = []

        def visit(name: str) -> None:
            imported = self.modules[name].imported
            needed = {imported[local][0] for local in self.names[name] & imported.keys()}
            for other in sorted(needed & self.modules.keys()):
                if other not in done and other != name:
                    visit(other)
            if name not in done:
                done.append(name)

        for name in sorted(self.modules):
            visit(name)
        return done


@cache
def _sources(roots: frozenset[tuple[str, str]]) -> dict[str, str]:
    """The sources of the modules that these names need, each after those that it imports."""
    found = Slice.of(roots)
    for name, module in found.modules.items():
        for index in module.effects:
            line = module.statements[index].lineno
            raise ValueError(f"{file_of(name)}:{line} can't be vendored: it only has an effect.")
    return {
        name: _render(name, found.modules[name], found.statements[name], found.names[name])
        for name in found.ordered()
    }


def _parse(name: str) -> Module:
    path = file_of(name)
    source = path.read_text(encoding="utf-8")
    module = Module(source, ast.parse(source, filename=str(path)).body)
    for index, statement in enumerate(module.statements):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            module.imported |= dict(_imports(statement))
            continue
        defined = [*_defines(statement)]
        is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        is_typing = isinstance(statement, ast.If) and "TYPE_CHECKING" in module.uses(index)
        if not (defined or is_docstring or is_typing):
            module.effects.append(index)
        for each in defined:
            module.defined.setdefault(each, []).append(index)
    return module


def _imports(statement: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, tuple[str, str]]]:
    """Local name, and (module, name in it), of each import of a statement."""
    for alias in statement.names:
        if isinstance(statement, ast.Import):
            yield alias.asname or alias.name.split(".")[0], (alias.name, "")
        else:
            module, local = str(statement.module), alias.asname or alias.name
            whole = f"{module}.{alias.name}"
            is_module = module.split(".")[0] == PACKAGE and file_of(whole).is_file()
            yield local, (whole, "") if is_module else (module, alias.name)


def _defines(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement at the top of a module defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for node in (node for target in targets for node in ast.walk(target)):
            if isinstance(node, ast.Name):
                yield node.id


def file_of(module: str) -> Path:
    """The file of a module of the package, which may not exist."""
    path = ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _render(name: str, module: Module, statements: set[int], names: set[str]) -> str:
    """The source of a module with these statements, and the imports of these names."""
    summary = (ast.get_docstring(ast.Module(module.statements, [])) or name).splitlines()[0]
    lines = [f'"""{summary}"""', ""]
    for local in sorted(names & module.imported.keys()):
        lines.append(_import_line(name, local, *module.imported[local]))
    text = module.source.splitlines()
    for index in sorted(statements):
        statement = module.statements[index]
        first = min([statement.lineno, *(node.lineno for node in getattr(statement, "decorator_list", []))])
        lines += ["", *text[first - 1 : statement.end_lineno]]
    return "\n".join(lines) + "\n"


def _import_line(importer: str, local: str, module: str, name: str) -> str:
    top = module.split(".")[0]
    if top == PACKAGE:
        module = re.sub(f"^{PACKAGE}", PLACEHOLDER, module)
    elif top not in (*ALLOWED, *NAMED) and top not in sys.stdlib_module_names:
        raise ValueError(
            f"{importer} can't be vendored: it needs the package {top}, which diffusers does not."
        )
    if not name and top == PACKAGE:
        module, name = module.rpartition(".")[::2]
    if not name:
        return f"import {module}" + ("" if local == top else f" as {local}")
    return f"from {module} import {name}" + ("" if local == name else f" as {local}")
