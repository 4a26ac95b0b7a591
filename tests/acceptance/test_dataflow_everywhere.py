"""One model in a YAML file, run by the command line on one event loop, on Ray and on a fleet of real workers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from stbass.testing import RedisServer, Worker
from tests.support.dataflow_orders import LIBRARY, expected, model, write_orders

ROOT = Path(__file__).parents[2]
MODULE = "tests.support.dataflow_orders"
ROWS = 200
PLACES = "placement: {orders: files@desk, sums: files@desk, multiply: desk, purse: bank, tithe: bank}"

pytestmark = pytest.mark.acceptance


def settings(server: RedisServer) -> dict[str, str]:
    """How a program finds the fleet."""
    return {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}


@pytest.fixture(scope="module")
def deployed(server: RedisServer) -> Iterator[dict[str, str]]:
    """Workers as they are deployed, one for what has no endpoint and two for endpoints; the settings that find them."""
    found = settings(server)
    with ExitStack() as stack:
        for endpoint in ("stbass", "desk", "bank"):
            stack.enter_context(Worker("celery_app", endpoint, env=found, include=[MODULE, LIBRARY], cwd=ROOT))
        yield found


def stbass(*arguments: str | Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A command, typed where the repository's modules are found."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("STBASS_")}
    return subprocess.run(
        [sys.executable, "-m", "stbass.cli", *map(str, arguments)],
        env={**known, "PYTHONPATH": str(ROOT), **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where there are orders, a model and no sums."""
    write_orders(tmp_path / "orders.csv", ROWS)
    (tmp_path / "model.yaml").write_text(model(tmp_path))
    return tmp_path


# Whether the loop takes the last balance, which nobody waits for, is left to chance.
PRINTED = rf"""orders: completed in \d+\.\d s
  orders    completed  {ROWS + 1} steps
  multiply  completed  {ROWS} steps
  purse     completed  {ROWS} steps  orders={ROWS}
  tithe     completed  ({ROWS}|{ROWS - 1}) steps
  sums      completed  {ROWS} steps
"""


@pytest.mark.parametrize(
    "kind", ["local", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.timeout(300)]), "celery"]
)
def test_the_same_model_gives_the_same_file_everywhere(kind: str, folder: Path, deployed: dict[str, str]) -> None:
    done = stbass("process", "run", folder / "model.yaml", "--process-type", kind, "--quiet", env=deployed)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(PRINTED, done.stdout), done.stdout
    assert (folder / "sums.csv").read_bytes() == expected(folder / "orders.csv")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "celery"])
def test_a_model_that_says_where_on_a_fleet_does_too(kind: str, folder: Path, deployed: dict[str, str]) -> None:
    (folder / "model.yaml").write_text(model(folder, kind="CeleryProcess", args=PLACES))
    done = stbass("process", "run", folder / "model.yaml", "-t", kind, "-q", env=deployed)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(PRINTED, done.stdout), done.stdout
    assert (folder / "sums.csv").read_bytes() == expected(folder / "orders.csv")


# What is missing ---------------------------------------------------------------------------------


def everybody(place: str) -> str:
    """All components at one endpoint, in two groups."""
    return f"placement: {{orders: {place}, sums: {place}, multiply: {place}, purse: a@{place}, tithe: a@{place}}}"


@pytest.mark.slow
def test_nobody_is_there(folder: Path, deployed: dict[str, str]) -> None:
    (folder / "model.yaml").write_text(model(folder, kind="CeleryProcess", args=everybody("nowhere")))
    done = stbass("process", "run", folder / "model.yaml", env=deployed)
    assert done.returncode == 1
    assert done.stderr == (
        "stbass: process 'orders' needs a slot for each of its groups at the same time. 'nowhere': 2 needed, 0 free. "
        "No worker consumes the queue 'nowhere'; there are workers for bank, desk, stbass; "
        "start one: stbass worker -e nowhere\n"
    )
    assert done.stdout == ""
    assert not (folder / "sums.csv").exists()


@pytest.mark.slow
def test_workers_that_were_not_told_of_the_module(folder: Path, server: RedisServer) -> None:
    (folder / "model.yaml").write_text(model(folder, kind="CeleryProcess", args=everybody("newcomer")))
    with Worker("celery_app", "newcomer", env=settings(server), cwd=ROOT) as worker:
        done = stbass("process", "run", folder / "model.yaml", env=settings(server))
    assert done.returncode == 1
    # whichever of the two groups is the first to be asked
    begins = f"stbass: worker '{worker.name}' on queue 'newcomer' was not told to make components of "
    said = [
        f"{begins}{module}.{name}; add their module, '{module}', to include (STBASS_INCLUDE)\n"
        for module, name in ((LIBRARY, "FileReader"), (MODULE, "Purse"))
    ]
    assert done.stderr in said
    assert not (folder / "sums.csv").exists()


def test_redis_is_not_there(folder: Path) -> None:
    with RedisServer() as server:
        nowhere = settings(server)
        secret = nowhere["STBASS_BROKER_URL"].replace("redis://", "redis://:open-sesame@")
    done = stbass(
        "process", "run", folder / "model.yaml", "-t", "celery",
        env={"STBASS_BROKER_URL": secret, "STBASS_RESULT_BACKEND": secret},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("cannot be reached") == 1, done.stderr
    assert done.stderr.count("\n") == 1
    assert "start it, or correct the URL" in done.stderr
    assert "open-sesame" not in done.stderr
