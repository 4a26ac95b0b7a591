"""A Python in which stbass cannot run, or not all of it: one sentence says why, and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stbass

ROOT = Path(__file__).parents[2]


def last_line(program: str, cwd: Path) -> str:
    """What a program that fails writes last."""
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(cwd)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout
    return done.stderr.splitlines()[-1]


def test_a_missing_package_is_named() -> None:
    # given a Python without it
    program = "import runpy, sys; sys.modules['typer'] = None; runpy.run_module('stbass', run_name='__main__')"
    # when
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    # then
    said = "stbass: the command line needs typer, which is not installed: pip install typer\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_an_old_python_is_told_of() -> None:
    line = last_line("import sys; sys.version_info = (3, 10, 13); import stbass", ROOT)
    assert line.startswith("ImportError: stbass needs Python 3.11 to 3.13, and ")
    assert line.endswith("make an environment with a newer one, such as python3.12 -m venv .venv")


def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    # given a Python that says that it is one
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 3.10\n")
    python.chmod(0o755)
    # when an environment is to be made with it
    made = tmp_path / "venv"
    command = ["make", "-C", str(ROOT), f"{made}/bin/python", f"VENV={made}", f"PYTHON={python}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    # then nothing is made
    assert f"stbass needs Python 3.11, 3.12 or 3.13, and {python} is another\n" in done.stderr
    assert not made.exists()


@pytest.mark.slow
def test_make_without_a_network_says_what_to_do(tmp_path: Path) -> None:
    # given a pip that finds no package
    command = ["make", "-C", str(ROOT), f"{tmp_path}/venv/.installed-demo", f"VENV={tmp_path}/venv"]
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    # when an environment is to be made
    done = subprocess.run(
        [*command, f"PYTHON={sys.executable}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    # then
    assert "not installed: see what pip says above. It needs the network, or PIP_INDEX_URL" in done.stderr
    assert done.returncode == 2


def test_no_python_that_will_do_is_told_of() -> None:
    command = [str(ROOT / ".ci" / "find-python"), "2.9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "stbass needs Python 2.9 with the venv module, and found none on PATH or in pyenv." in done.stderr


@pytest.fixture(scope="module")
def overwritten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with our package, over which the other distribution has put files of its own."""
    folder = tmp_path_factory.mktemp("overwritten")
    ours = Path(stbass.__file__).parent
    shutil.copytree(ours, folder / "stbass", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__", "timer", "result", "channel", "process", "placement"):
        (folder / "stbass" / f"{name}.py").write_text('"""Of another implementation."""\n__version__ = "0.1.1"\n')
    return folder


@pytest.mark.parametrize(
    "program",
    [
        "from stbass.app import app",
        "from stbass.backends.celery import CeleryBackend",
        "from stbass.dataflow import Component",
        "import stbass.workflow",
        "import stbass.runs",
        "from stbass.cli import main; main()",
        "import runpy; runpy.run_module('stbass', run_name='__main__')",
    ],
)
def test_another_package_of_the_name_over_ours_is_told_of(overwritten: Path, program: str) -> None:
    line = last_line(program, overwritten)
    assert line.startswith("ImportError: the distribution 'stbass', which is another implementation, has put its files")
    assert "pip uninstall stbass" in line
