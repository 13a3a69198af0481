"""The command `regen`. Heavy imports are inside the commands, so that `regen --help` answers at once."""

from regen.cli.app import main

__all__ = ["main"]
