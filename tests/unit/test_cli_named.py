"""What a command line names, imported: what is wrong is said in one sentence, with the last line of the user's own."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from celery import Celery

import stbass
from stbass.backends.celery import install
from stbass.backends.celery.settings import fleet_of
from stbass.cli.named import APPLICATION, import_named, load_application, load_object, load_settings
from stbass.cli.worker import use_pool
from stbass.errors import ConfigurationError

Write = Callable[[str], str]
_numbers = itertools.count()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """``write(text)``: a module in the working directory, under a name that no other one has; gives back the name."""
    names: list[str] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def module(text: str) -> str:
        names.append(f"application_of_{next(_numbers)}")
        (tmp_path / f"{names[-1]}.py").write_text(text)
        return names[-1]

    yield module
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("raise KeyError('X')", ".py, line 1 (raise KeyError('X')), raises KeyError: 'X'"),
        ("def f():\n    return 1 / 0\nf()", ".py, line 2 (return 1 / 0), raises ZeroDivisionError: division by zero"),
        ("import json\njson.loads('{')", ".py, line 2 (json.loads('{')), raises JSONDecodeError: "),
        ("import no_such_package", ".py, line 1 (import no_such_package), raises ModuleNotFoundError: "),
        ("raise ValueError('v')", ".py, line 1 (raise ValueError('v')), raises ValueError: v"),
        ("raise AttributeError('a')", ".py, line 1 (raise AttributeError('a')), raises AttributeError: a"),
        ("import sys\nsys.exit('no')", ".py, line 2 (sys.exit('no')), raises SystemExit: no"),
        ("def (", ".py, line 1, raises SyntaxError: invalid syntax"),
        (
            "try:\n    {}[1]\nexcept KeyError:\n    raise RuntimeError('r')",
            "line 4 (raise RuntimeError('r')), raises R",
        ),
        ("x = 1", "there is no such Celery application to be found from"),
        ("app = 1", "this is 1, and not a Celery application"),
        (
            "from celery import Celery\napp = Celery('shop', broker='redis://elsewhere.invalid', set_as_current=False)",
            "add this line where it is made: from stbass.backends.celery import install; install(app)",
        ),
    ],
    ids=range(12),
)
def test_an_application_that_cannot_be_used(write: Write, module: str, says: str) -> None:
    name = write(module)
    with pytest.raises(ConfigurationError) as caught:
        load_application(f"{name}:app" if "app = 1" in module else name)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_application_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match="there is no such Celery application to be found from"):
        load_application("no_such_application")


def test_a_name_that_its_module_does_not_have(write: Write) -> None:
    name = write("from celery import Celery\napplication = Celery('shop', set_as_current=False)")
    with pytest.raises(ConfigurationError, match=rf"\(module '{name}' has no attribute 'nothing'\)"):
        load_application(f"{name}:nothing")


@pytest.mark.parametrize(
    ("file", "module"),
    [("reports.py", "reports"), ("./jobs/reports.py", "jobs.reports"), ("jobs/reports", "jobs.reports")],
)
def test_a_file_in_place_of_a_module_is_refused_with_the_name_of_the_module(file: str, module: str) -> None:
    says = f"write the name of the module, such as {module}, and not that of its file"
    with pytest.raises(ConfigurationError, match=says):
        load_application(file)
    with pytest.raises(ConfigurationError, match=says):
        load_application(f"{file}:app")
    with pytest.raises(ConfigurationError, match=says):
        load_object("COMPOSITION", f"{file}:daily")
    with pytest.raises(ConfigurationError, match=says):
        import_named(Celery("shop", set_as_current=False), "--include", file)


@pytest.mark.parametrize(
    ("own", "wanted", "pool", "concurrency"),
    [
        ({}, None, "stbass.backends.celery.pool:AsyncioPool", 1000),
        ({"worker_pool": "prefork", "worker_concurrency": 7}, None, "stbass.backends.celery.pool:AsyncioPool", 7),
        ({}, "prefork", "prefork", None),
        (
            {"worker_pool": "stbass.backends.celery.pool:AsyncioPool", "worker_concurrency": 1000},
            "threads",
            "threads",
            None,
        ),
        ({"worker_concurrency": 7}, "solo", "solo", 7),
    ],
)
def test_the_pool_is_the_one_for_processes_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch, own: dict[str, object], wanted: str | None, pool: str, concurrency: int | None
) -> None:
    monkeypatch.delenv("STBASS_POOL", raising=False)
    if wanted is not None:
        monkeypatch.setenv("STBASS_POOL", wanted)
    app = install(Celery("shop", set_as_current=False))
    app.conf.update(own)
    use_pool(app)
    assert (app.conf.worker_pool, app.conf.worker_concurrency) == (pool, concurrency)


def test_a_pool_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STBASS_POOL", "gevent")
    with pytest.raises(
        ConfigurationError, match="STBASS_POOL='gevent': must be one of asyncio, prefork, threads, solo"
    ):
        use_pool(install(Celery("shop", set_as_current=False)))


@pytest.mark.parametrize(
    ("environment", "is_enough"),
    [
        ({}, True),
        ({"STBASS_BROKER_URL": "redis://:p%40ss@queues:1/2", "STBASS_RESULT_BACKEND": "rediss://results/3"}, True),
        ({"STBASS_KEY_PREFIX": "mine:", "STBASS_LEASE": "2.5", "STBASS_GRACE": "0", "STBASS_INCLUDE": "a, b.c"}, True),
        ({"STBASS_BROKER_URL": "sentinel://a:1;sentinel://b:2", "STBASS_SENTINEL_MASTER": "chief"}, True),
        ({"STBASS_RESULT_EXPIRES": "60.5", "STBASS_MAX_MESSAGE_BYTES": "2048", "STBASS_FUNCTIONS": "tools"}, True),
        ({"STBASS_SIGNING_KEY": "k" * 16, "STBASS_LIMITS": '{"llm": "5, 10/s"}'}, True),
        ({"STBASS_BROKER_URL": "amqp://queues", "STBASS_RESULT_BACKEND": "redis://results"}, False),
        ({"CELERY_BROKER_URL": "redis://elsewhere/1"}, False),
        ({"CELERY_BROKER_READ_URL": "redis://elsewhere/1", "CELERY_RESULT_BACKEND": "redis://results/1"}, False),
    ],
)
def test_settings_without_an_application_are_those_of_the_application(
    environment: dict[str, str], is_enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given the environment of a fleet
    for name in os.environ:
        if name.startswith(("STBASS_", "CELERY_")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, APPLICATION, raising=False)
    monkeypatch.delattr(stbass, "app", raising=False)
    # when only its settings are asked for
    settings, application = load_settings(APPLICATION)
    # then they are those of the application that it describes, which was not made if it was not needed
    assert (application is None) is is_enough
    assert (APPLICATION in sys.modules) is not is_enough
    expected = fleet_of(load_application(APPLICATION)).settings
    assert replace(settings, signer=None) == replace(expected, signer=None)
    assert settings.signs == expected.signs
    sys.modules.pop(APPLICATION)


def test_a_wrong_setting_is_told_without_an_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STBASS_LEASE", "long")
    with pytest.raises(ConfigurationError, match="STBASS_LEASE='long': must be a number of seconds"):
        load_settings(APPLICATION)
