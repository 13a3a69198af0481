"""A recipe with its help text."""

from dataclasses import dataclass
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

    def help(self, name: str) -> str:
        """Help text of `regen train NAME`."""
        return f"{self.summary}\n\n{self.command.format(name=name)}"
