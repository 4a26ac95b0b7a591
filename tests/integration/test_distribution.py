"""The wheel and the sdist: what is in them, and that what is in them works where nothing else of ours is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from stbass.testing import RedisServer
from stbass.testing._guarded import GuardedProcess

ROOT = Path(__file__).parents[2]


def surroundings() -> dict[str, str]:
    """The environment, without what points to this checkout, or to a server that a fresh installation does not have."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "STBASS_REDIS_SERVER")}


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    told = {**surroundings(), **environment}
    return subprocess.run(command, env=told, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def must(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = run(*command, cwd=cwd, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    must(sys.executable, "-m", "hatchling", "build", "-d", folder, "-t", "wheel", "-t", "sdist", cwd=ROOT)
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def environment(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, and what the wheel needs from the environment of this test."""
    folder = tmp_path_factory.mktemp("environment")
    must(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    must(*pip, built[0], cwd=folder)
    # A plain path: of what is installed there, links to this checkout are not followed.
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


def test_nothing_but_the_package_is_in_the_wheel(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    assert re.fullmatch(r"stbass_celery-[\d.]+-py3-none-any\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {
        "stbass",
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }
    assert "stbass/py.typed" in names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "stbass").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    with tarfile.open(sdist) as source:
        tops = {name.split("/")[1] for name in source.getnames()}
    assert {"LICENSE", "README.md", "celery_app", "docs", "examples", "pyproject.toml", "stbass", "tests"} <= tops
    assert not {".git", ".venv"} & tops


def test_what_is_installed_is_the_wheel_and_no_application_of_ours(environment: Path, tmp_path: Path) -> None:
    code = "import stbass, stbass.app; print(stbass.__file__, stbass.__version__)"
    file, version = must(environment / "python", "-c", code, cwd=tmp_path).split()
    assert Path(file).is_relative_to(environment.parent)
    assert must(environment / "stbass", "--version", cwd=tmp_path) == f"stbass {version}\n"
    missing = run(environment / "python", "-c", "import celery_app", cwd=tmp_path)
    assert "No module named 'celery_app'" in missing.stderr


def test_a_project_with_a_celery_app_of_its_own_gets_the_fleet_of_the_wheel(environment: Path, tmp_path: Path) -> None:
    # given a project in which celery_app is something else, and which has a process
    (tmp_path / "celery_app.py").write_text("raise RuntimeError('this is the project, and not for stbass')\n")
    (tmp_path / "shop.py").write_text(
        "from stbass.process import Process, ProcessContext\n"
        "@Process\n"
        "async def greet(ctx: ProcessContext, name: str) -> str:\n"
        "    return f'Hello {name}'\n"
    )
    (tmp_path / "program.py").write_text(
        "from shop import greet\n"
        "from stbass import PLACED_PAR, BackendRegistry, Placement\n"
        "from stbass.app import app\n"
        "from stbass.backends.celery import CeleryBackend\n"
        "registry = BackendRegistry()\n"
        "registry.register('*', CeleryBackend(app))\n"
        "placed = PLACED_PAR((greet('Ada'), Placement(endpoint='desk')), registry=registry, deadline=60.0)\n"
        "print(placed.run_sync().results[0].value)\n"
    )
    with RedisServer() as server:
        settings = {"STBASS_BROKER_URL": server.url}
        # when a worker is started in it
        command = [str(environment / "stbass"), "worker", "-e", "desk", "--include", "shop", "-n", "mine@here"]
        worker = GuardedProcess(command, name="stbass worker", env={**surroundings(), **settings}, cwd=tmp_path)
        try:
            worker.wait_for_log("mine@here ready.", 60)
            assert "worker of stbass.app at redis://" in worker.log
            # then it runs the project's process
            assert must(environment / "python", "program.py", cwd=tmp_path, **settings) == "Hello Ada\n"
        finally:
            worker.kill()


# From the index ----------------------------------------------------------------------------------


def fresh(folder: Path, requirement: str, python: str = sys.executable) -> Path:
    """The programs of an environment that has nothing but this requirement and what it brings."""
    must(python, "-m", "venv", folder, cwd=folder.parent)
    must(folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", requirement, cwd=folder)
    must(folder / "bin" / "pip", "check", cwd=folder)
    return folder / "bin"


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_the_demonstration_in_a_fresh_environment(built: tuple[Path, Path], tmp_path: Path, version: str) -> None:
    python = must(ROOT / ".ci" / "find-python", version, cwd=ROOT).strip()
    programs = fresh(tmp_path / "environment", f"{built[0]}[demo]", python)
    out = must(programs / "stbass", "demo", cwd=tmp_path, PATH=f"{programs}:/usr/bin:/bin")
    assert "2 failures; what the others found is kept (COLLECT):" in out


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ("celery", "from stbass.app import app; from stbass.backends.celery import CeleryBackend; CeleryBackend(app)"),
        ("dataflow", "import yaml; import stbass.dataflow"),
        ("parquet", "from stbass.dataflow.library.parquet_files import pyarrow; pyarrow()"),
        ("sql", "import sqlalchemy; from stbass.dataflow.library import SQLReader"),
        ("postgres", "from stbass.dataflow.state import PostgresStateBackend"),
        ("mcp", "import mcp; import stbass.mcp"),
    ],
)
def test_an_extra_brings_what_its_part_needs(built: tuple[Path, Path], tmp_path: Path, extra: str, code: str) -> None:
    programs = fresh(tmp_path / "environment", f"{built[1]}[{extra}]")
    must(programs / "python", "-c", code, cwd=tmp_path)
