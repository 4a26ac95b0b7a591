"""examples/notebook, run from top to bottom by a kernel, in front of a worker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stbass.testing import RedisServer, Worker
from tests.support.site import ROOT

nbformat = pytest.importorskip("nbformat", reason="the example needs nbformat: make docs installs it")
nbclient = pytest.importorskip("nbclient", reason="the example needs nbclient: make docs installs it")
pytest.importorskip("ipykernel", reason="the example needs ipykernel: make docs installs it")

NOTEBOOK = ROOT / "examples" / "notebook" / "drafts.ipynb"

pytestmark = pytest.mark.acceptance


def test_the_notebook_is_kept_without_what_its_cells_have_shown() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
async def test_every_cell_runs_and_shows_what_it_should(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "PYTHONPATH": str(ROOT)}
    for name, value in env.items():
        monkeypatch.setenv(name, value)  # a kernel has the environment of whoever starts it
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with Worker("stbass.app", "reports", env=env, include=["examples.web.report"], cwd=ROOT):
        client = nbclient.NotebookClient(notebook, timeout=90, resources={"metadata": {"path": str(ROOT)}})
        await asyncio.wait_for(client.async_execute(), 100)
    shown = {cell.source.splitlines()[0]: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}

    def text(first: str, kind: str = "text/plain") -> str:
        [outputs] = [found for line, found in shown.items() if line.startswith(first)]
        return "".join(_text(output, kind) for output in outputs)

    assert "A report on the tides. It is written" in text("topics")
    assert "the moons: done" in text("topics")
    assert "<svg" in text("result.timeline()", "text/html")
    assert "mine" in text("@Process", "stdout")
    assert "module" in text("@Process", "stdout")
    assert "all the stars of the sky" in text("placed", "text/html")
    assert text("run = ", "stdout").startswith("A report on the sun.")


async def test_progress_is_text_in_a_notebook_without_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code = "from stbass import PAR\nfrom tests.support.compose import give\nawait PAR(give(1)).run(progress=True)\nNone"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    client = nbclient.NotebookClient(notebook, timeout=90, kernel_name="python3")
    await asyncio.wait_for(client.async_execute(), 100)
    outputs = notebook.cells[0].outputs
    assert {output.output_type for output in outputs} == {"stream"}
    assert "give: done" in "".join(output.text for output in outputs)


def _text(output: Any, kind: str) -> str:
    if output.output_type == "stream":
        return str(output.text) if output.name == kind else ""
    return str(output.data.get(kind, ""))
