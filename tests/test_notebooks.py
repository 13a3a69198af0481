"""The notebooks run from the first cell to the last, and store no outputs that could go stale."""

import os
from pathlib import Path

import nbformat
import pytest
from tiny_media import make_video

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_no_outputs_are_stored(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.integration
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_runs_on_a_tiny_clip(path, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    # The package of this checkout, and nothing of a user's settings of Jupyter.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    make_video(tmp_path / "in.mp4", frames=6, height=32, width=48)
    notebook = nbformat.read(path, as_version=4)
    # Cells with the tag skip-execution install the package.
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert {"out.mp4", "latents.safetensors", "smooth.mp4", "generated.mp4"} <= {
        f.name for f in tmp_path.iterdir()
    }
