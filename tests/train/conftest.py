"""Videos to train on."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    from shapes import write_dataset  # not above, see tests/conftest.py

    folder = tmp_path_factory.mktemp("videos")
    write_dataset(folder, videos=3, frames=12, height=32, width=40, seed=0)
    return folder
