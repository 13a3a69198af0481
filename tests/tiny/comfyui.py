"""A stand-in for ComfyUI: what nodes of its V3 interface use of it, and the pack of nodes loaded into it."""

import asyncio
import importlib.util
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

PACK = Path(__file__).parents[2] / "integrations" / "comfyui"
# Keyword arguments of inputs and outputs, as ComfyUI 0.3.64 has them.
COMMON = "display_name optional tooltip lazy"
WIDGET = f"{COMMON} default socketless"
NUMBER = f"{WIDGET} force_input min max step display_mode"
INPUTS: dict[str, str] = {
    "INT": f"{NUMBER} control_after_generate",
    "FLOAT": f"{NUMBER} round",
    "STRING": f"{WIDGET} force_input multiline placeholder dynamic_prompts",
    "COMBO": f"{WIDGET} options control_after_generate upload image_folder remote",
    "IMAGE": COMMON,
    "LATENT": COMMON,
}


class CancelledError(Exception):
    """Raised after `Comfy.cancel`."""


@dataclass
class Comfy:
    """Progress that the nodes report, and whether the user cancels: now, or at a later check."""

    progress: list[tuple[float, float, Image.Image | None]] = field(default_factory=list)
    cancel: bool = False
    cancel_after: int | None = None
    nodes: dict[str, Any] = field(default_factory=dict)

    def stop_if_cancelled(self) -> None:
        if self.cancel_after is not None:
            self.cancel_after -= 1
        if self.cancel or self.cancel_after == 0:
            self.cancel, self.cancel_after = False, None
            raise CancelledError

    def progress_bar(self, total: int) -> "ProgressBar":
        return ProgressBar(self, total)

    def run(self, node_id: str, **values: Any) -> Any:
        """The outputs of a node; inputs that are left out have their defaults."""
        node = self.nodes[node_id]
        defaults = {one.id: one.default for one in node.define_schema().inputs if one.default is not None}
        with torch.inference_mode():
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
        self.total = self.total if total is None else total
        self.current = min(value, self.total)
        self.comfy.stop_if_cancelled()
        self.comfy.progress.append((self.current, self.total, None if preview is None else preview[1]))


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
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    description: str = ""
    is_output_node: bool = False

    def __post_init__(self) -> None:
        names = [port.id for port in (*self.inputs, *self.outputs) if port.id]
        assert len({*names}) == len(names), "ids of inputs and outputs differ"


class ComfyNode:
    """The base class of nodes."""


class ComfyExtension(ABC):
    @abstractmethod
    async def get_node_list(self) -> list[type[ComfyNode]]: ...


class NodeOutput:
    def __init__(
        self, *args: Any, ui: Any = None, expand: dict | None = None, block_execution: str | None = None
    ) -> None:
        self.result = args or None


def io_type(name: str) -> Any:
    """The class of a type, with its Input and Output."""
    known = {*INPUTS.get(name, COMMON).split()}

    def make_input(id: str, **options: Any) -> Port:
        assert options.keys() <= known, f"{name} inputs take no {options.keys() - known}"
        return Port(name, id, options=options)

    def make_output(
        id: str = "", display_name: str = "", tooltip: str | None = None, is_output_list: bool = False
    ) -> Port:
        return Port(name, id, display_name)

    return SimpleNamespace(Input=make_input, Output=make_output)


@contextmanager
def comfyui() -> Iterator[Comfy]:
    """ComfyUI with the pack loaded; nothing of both stays behind."""
    comfy = Comfy()
    types = {name.capitalize(): io_type(name) for name in INPUTS}
    io = SimpleNamespace(ComfyNode=ComfyNode, NodeOutput=NodeOutput, Schema=Schema, Custom=io_type, **types)
    names = ("comfy", "comfy.model_management", "comfy.utils", "comfy_api", "comfy_api.latest")
    modules = {name: ModuleType(name) for name in names}
    vars(modules["comfy.model_management"]).update(
        throw_exception_if_processing_interrupted=comfy.stop_if_cancelled
    )
    vars(modules["comfy.utils"])["ProgressBar"] = comfy.progress_bar
    vars(modules["comfy_api.latest"]).update(io=io, ComfyExtension=ComfyExtension)
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
        assert isinstance(extension, ComfyExtension)
        nodes = asyncio.run(extension.get_node_list())
        assert isinstance(nodes, list) and all(issubclass(node, ComfyNode) for node in nodes)
        comfy.nodes = {node.define_schema().node_id: node for node in nodes}
        assert len(comfy.nodes) == len(nodes)
        yield comfy
