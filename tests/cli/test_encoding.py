"""Terminals that lack characters."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii"}])
def test_help_is_shown_where_characters_are_lacking(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "regen", "--help"]
    ran = subprocess.run(command, env=os.environ | environment, capture_output=True, check=False)
    assert (ran.returncode, b"reconstruct" in ran.stdout) == (0, True), ran.stderr
