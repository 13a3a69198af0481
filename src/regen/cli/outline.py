"""The recipes for help texts: their dataclasses and tables alone, without the rest of their modules.

Whole modules import torch and diffusers, which takes seconds.
"""

import __future__

import ast
import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from regen.vendoring import PACKAGE, Module, Slice, file_of

ROOTS = tuple(("regen.recipes", name) for name in ("RECIPES", "GENERATORS", "HELP", "GPUS"))
OUTLINE = "regen_outline."  # before the names of modules
LIGHT = frozenset({*sys.stdlib_module_names, "tyro"})  # packages that are imported


@cache
def recipes_outline() -> ModuleType:
    """`regen.recipes` with `ROOTS` alone; methods that compute with tensors can't be called."""
    found = Slice.of(ROOTS)
    for name in found.ordered():
        module = found.modules[name]
        outline = sys.modules[OUTLINE + name] = ModuleType(OUTLINE + name)
        outline.__file__ = str(file_of(name))  # where the texts of fields are read
        vars(outline).update(_imports(module, found.names[name]))
        body = [module.statements[index] for index in sorted(found.statements[name])]
        flags = __future__.annotations.compiler_flag  # those of methods name tensors
        code = compile(ast.Module(body, []), outline.__file__, "exec", flags=flags, dont_inherit=True)
        exec(code, vars(outline))
    return sys.modules[OUTLINE + ROOTS[0][0]]


def _imports(module: Module, names: set[str]) -> dict[str, Any]:
    """What a module imports from outlines and light packages."""
    values: dict[str, Any] = {}
    for local in sorted(names & module.imported.keys()):
        source, name = module.imported[local]
        top = source.split(".")[0]
        if top == PACKAGE:
            outline = sys.modules[OUTLINE + source]
            values[local] = getattr(outline, name) if name else outline
        elif top in LIGHT:
            values[local] = getattr(import_module(source), name) if name else import_module(source)
    return values
