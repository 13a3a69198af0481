"""A recipe with its help text."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import cleandoc
from typing import Generic, TypeVar

R = TypeVar("R")

PLAIN = "regen train {name} --data DIR --out RUN"
CACHED = "regen train {name} --data DIR --cache FRAMES --out RUN"


@dataclass(frozen=True)
class Preset(Generic[R]):
    """A full configuration, what it is for (hardware, time, result), and the command that runs it."""

    recipe: R
    summary: str
    command: str = CACHED
    gpus: int = 1
    """The number of GPUs that its batches are for."""

    def help(self, name: str) -> str:
        """Help text of `regen train NAME`."""
        return f"{self.summary}\n\n{self.command.format(name=name)}"

    def hardware(self, name: str) -> str:
        """What the recipe is made for: "CPU", "1 GPU" or "32 GPUs"."""
        if self.gpus > 1:
            return f"{self.gpus} GPUs"
        return "CPU" if name.endswith("-cpu") or name.startswith("toy") else "1 GPU"


def documented(make: Callable[[], R], command: str = CACHED, gpus: int = 1) -> Preset[R]:
    """The recipe that a function makes, with the function's docstring as summary."""
    return Preset(make(), cleandoc(make.__doc__ or ""), command, gpus)
