"""What importing loads, what works without an optional package, and what arrives where a class is not imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest

from stbass.wire import dumps, loads
from tests.support.wire_samples import Account, Colour, Frozen, Level, Mode, Pair, Person, Point, Right, Team

SAMPLES = "tests.support.wire_samples"
HEAVY = {
    "celery",
    "kombu",
    "mcp",
    "numpy",
    "opentelemetry",
    "pandas",
    "psycopg",
    "pyarrow",
    "pydantic",
    "ray",
    "redis",
    "rich",
    "sqlalchemy",
    "typer",
    "yaml",
}


def printed(code: str, given: bytes = b"", environment: Mapping[str, str] | None = None) -> str:
    """What a new Python process prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=given,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().rstrip("\n")


# What an import costs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    [
        "import stbass",
        "from stbass import *",
        "import stbass.testing; stbass.testing.RedisServer, stbass.testing.Worker",
        "from stbass.dataflow import Component, Event, LocalProcess, Resource, component",
        "from stbass.dataflow.library import FileReader, FileWriter",
        "from stbass.dataflow.state import DictStateBackend, SqliteStateBackend",
        "from stbass.wire import dumps, loads; loads(b'null')",
    ],
)
def test_importing_loads_nothing_heavy(what: str) -> None:
    loaded = printed(f"{what}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))")
    assert not set(loaded.split()) & HEAVY


def test_importing_loads_only_what_is_asked_for() -> None:
    code = "import stbass, sys\nprint(*sorted(name for name in sys.modules if name.startswith('stbass.')))"
    assert printed(code) == "stbass._lazy"


def test_dataflow_is_imported_at_once(tmp_path: Path) -> None:
    code = (
        "import time; began = time.process_time(); import stbass.dataflow; stbass.dataflow.LocalProcess;"
        "print(time.process_time() - began)"
    )
    # Compiled beforehand, as it is wherever it was installed or used once.
    cache = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    assert min(float(printed(code, environment=cache)) for _ in range(4)) < 0.5


def test_pydantic_is_imported_only_for_what_needs_it() -> None:
    printed("""
import sys
from typing import Literal
from stbass.channel import Chan, SequentialProtocol, VariantProtocol
for spec in (int, float, list, int | None, Literal["a"], SequentialProtocol(int, str), VariantProtocol(int, None)):
    Chan(spec)
assert "pydantic" not in sys.modules
Chan(list[int])
assert "pydantic" in sys.modules
""")


# What is missing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "code", "extra"),
    [
        ("celery", "import stbass.backends.celery", "celery"),
        ("kombu", "import stbass.backends.celery.worker", "celery"),
        ("redis", "from stbass.backends.celery import CeleryBackend", "celery"),
        ("redis", "from stbass.transports.redis import RedisTransport", "celery"),
        ("pydantic_settings", "import stbass.app", "celery"),
        ("psycopg", "import stbass.dataflow.state as state; state.PostgresStateBackend", "postgres"),
        ("redis", "import stbass.dataflow.state as state; state.RedisStateBackend", "celery"),
        ("yaml", "from stbass.dataflow.spec.model import loads; loads('a: 1')", "dataflow"),
    ],
)
def test_a_missing_package_is_named(package: str, code: str, extra: str) -> None:
    message = printed(f"""
import sys
sys.modules[{package!r}] = None
from stbass.errors import MissingDependencyError
try:
    {code}
except MissingDependencyError as error:
    print(error)
""")
    assert message.endswith(f"pip install 'stbass-celery[{extra}]'")
    if package == "yaml":
        assert message == "models in YAML need PyYAML: pip install 'stbass-celery[dataflow]'"


# What arrives where nothing is imported -----------------------------------------------------------


def test_an_array_is_an_array_where_nothing_has_imported_numpy() -> None:
    message = dumps([{"x": numpy.arange(4.0)}, numpy.float64(0.5)])
    code = f"""
import sys
from stbass.dataflow.engine.arriving import arrived
assert arrived(b"1", what="value") == 1 and "numpy" not in sys.modules
for text in ({message!r}, {message.decode()!r}):
    held, number = arrived(text, what="value")
    print(held["x"].mean(), type(number).__name__)
"""
    assert printed(code) == "1.5 float64\n1.5 float64"


def in_a_stranger(statements: str, data: bytes) -> str:
    """What another Python process prints, in which none of these classes is imported."""
    script = (
        "import sys\nfrom stbass.wire import dumps, loads, Opaque\n"
        "before = set(sys.modules)\ndata = sys.stdin.buffer.read()\nvalue = loads(data)\n"
        "assert set(sys.modules) == before, set(sys.modules) - before\n"
    )
    return printed(script + statements, data)


@pytest.mark.parametrize(
    "value",
    [
        Point(1, [Pair(1, (2,))]),
        {Colour.RED: Right.READ | Right.WRITE, Frozen(1, 2): {Level.LOW}},
        Pair(first=Account(name="a"), second=Mode.FAST),
        Team(lead=Person(name="Ada"), members=(), more={1: 2}),  # type: ignore[call-arg]
        [numpy.arange(6).reshape(2, 3), numpy.float32(1.5)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_passes_through_a_process_that_does_not_know_its_class(value: Any) -> None:
    # Given a process in which neither these classes nor pydantic nor numpy are imported
    # When the value arrives there and is sent on
    sent_on = in_a_stranger("sys.stdout.write(dumps(value).decode())", dumps(value))

    # Then nothing was imported there, and who knows the classes gets the value that was sent first
    found = loads(sent_on)
    assert repr(found) == repr(value)
    assert type(found) is type(value)


def test_opaque_says_what_it_stands_for_and_what_is_in_it() -> None:
    shown = in_a_stranger("print(value, value.type_name, value.data['x'])", dumps(Point(1, (2,))))

    assert shown == f"Opaque(type_name='{SAMPLES}:Point', data={{'x': 1, 'y': (2,)}}) {SAMPLES}:Point 1"
