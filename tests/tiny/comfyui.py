"""A stand-in for ComfyUI: what nodes of its V3 interface use of it, and the pack of nodes loaded into it."""

import asyncio
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

PACK = Path(__file__).parents[2] / "integrations" / "comfyui"
COMMON = {"display_name": None, "optional": False, "tooltip": None}
NUMBER = COMMON | {"default": None, "min": None, "max": None, "step": None}
# Keyword arguments of inputs, as the published interface has them.
INPUTS: dict[str, dict[str, Any]] = {
    "INT": NUMBER | {"control_after_generate": None},
    "FLOAT": NUMBER | {"round": None},
    "STRING": COMMON | {"default": None, "multiline": False, "placeholder": None},
    "COMBO": COMMON | {"default": None, "options": None},
    "IMAGE": COMMON,
    "LATENT": COMMON,
}


class CancelledError(Exception):
    """Raised after `Comfy.cancel`."""


@dataclass
class Comfy:
    """Progress that the nodes report, and whether the user has cancelled."""

    progress: list[tuple[float, float, Image.Image | None]] = field(default_factory=list)
    cancel: bool = False
    nodes: dict[str, Any] = field(default_factory=dict)

    def progress_bar(self, total: int) -> "ProgressBar":
        return ProgressBar(self, total)

    def run(self, node_id: str, **values: Any) -> Any:
        """The outputs of a node; inputs that are left out have their defaults."""
        node = self.nodes[node_id]
        defaults = {one.id: one.default for one in node.define_schema().inputs if one.default is not None}
        return node.execute(**defaults | values).result


@dataclass
class ProgressBar:
    """The progress bar of a node, which checks whether the user has cancelled."""

    comfy: Comfy
    total: int
    current: int = 0

    def update(self, value: int) -> None:
        self.update_absolute(self.current + value)

    def update_absolute(
        self, value: int, total: int | None = None, preview: tuple[str, Image.Image, int] | None = None
    ) -> None:
        if self.comfy.cancel:
            raise CancelledError
        self.current = value
        image = None if preview is None else preview[1]
        self.comfy.progress.append((value, total or self.total, image))


@dataclass(frozen=True)
class Port:
    """An input or output of a node."""

    io_type: str
    id: str = ""
    display_name: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def default(self) -> Any:
        return self.options.get("default")


@dataclass
class Schema:
    node_id: str
    display_name: str = ""
    category: str = "sd"
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    description: str = ""
    is_output_node: bool = False


class ComfyNode:
    """The base class of nodes."""


class NodeOutput:
    def __init__(self, *result: Any) -> None:
        self.result = result


def io_type(name: str) -> Any:
    """The class of a type, with its Input and Output."""
    known = INPUTS.get(name, COMMON)

    def make_input(id: str, **options: Any) -> Port:
        assert options.keys() <= known.keys(), f"{name} inputs take no {options.keys() - known.keys()}"
        return Port(name, id, options=options)

    def make_output(display_name: str = "") -> Port:
        return Port(name, display_name=display_name)

    return SimpleNamespace(Input=make_input, Output=make_output)


@contextmanager
def comfyui() -> Iterator[Comfy]:
    """ComfyUI with the pack loaded; nothing of both stays behind."""
    comfy = Comfy()
    types = {name.capitalize(): io_type(name) for name in INPUTS}
    io = SimpleNamespace(ComfyNode=ComfyNode, NodeOutput=NodeOutput, Schema=Schema, Custom=io_type, **types)
    names = ("comfy", "comfy.utils", "comfy_api", "comfy_api.latest")
    modules = {name: ModuleType(name) for name in names}
    vars(modules["comfy.utils"])["ProgressBar"] = comfy.progress_bar
    vars(modules["comfy_api.latest"]).update(io=io, ComfyExtension=object)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        spec = importlib.util.spec_from_file_location("regen_comfyui", PACK / "__init__.py")
        assert spec is not None and spec.loader is not None
        pack = importlib.util.module_from_spec(spec)
        for name in ("regen_comfyui", "regen_comfyui.nodes", "regen_comfyui.latent"):
            patch.setitem(sys.modules, name, pack)  # so that they are removed in the end
            del sys.modules[name]
        sys.modules["regen_comfyui"] = pack
        spec.loader.exec_module(pack)
        assert inspect.iscoroutinefunction(pack.comfy_entrypoint), "ComfyUI awaits it"
        extension = asyncio.run(pack.comfy_entrypoint())
        nodes = asyncio.run(extension.get_node_list())
        comfy.nodes = {node.define_schema().node_id: node for node in nodes}
        assert len(comfy.nodes) == len(nodes)
        yield comfy
