"""The notebooks run from the first cell to the last, and so does the example. Needs the extra ``docs``; .ci/run installs it."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import pytest

from aaclip_med.data.phantoms import make_phantom

nbclient = pytest.importorskip("nbclient", reason="needs the extra docs")
nbformat = pytest.importorskip("nbformat", reason="needs the extra docs")

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_to_its_end_and_draws(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def test_the_example_in_python_runs_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (NOTEBOOKS[0].parents[1] / "docs" / "how_to" / "python.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    phantom = make_phantom("brain-mri", 20, True)
    nib.save(nib.Nifti1Image(phantom.array, phantom.affine), tmp_path / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "docs/how_to/python.md", "exec"), {})
    assert nib.load("heatmap.nii.gz").shape == phantom.array.shape
