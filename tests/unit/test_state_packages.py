"""What the state backends need, and what they do without."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [("psycopg", "PostgresStateBackend", "postgres"), ("redis", "RedisStateBackend", "celery")],
)
def test_a_missing_package_is_named(package: str, name: str, extra: str) -> None:
    script = f"""
import sys
sys.modules[{package!r}] = None
from stbass.errors import MissingDependencyError
import stbass.dataflow.state as state
try:
    state.{name}
except MissingDependencyError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(f"pip install 'stbass[{extra}]'")


def test_a_local_backend_needs_no_client() -> None:
    script = """
import sys
import stbass.dataflow.state
stbass.dataflow.state.SqliteStateBackend, stbass.dataflow.state.DictStateBackend
print({"redis", "psycopg", "celery", "pydantic"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
