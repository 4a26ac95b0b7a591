"""Settings come from the environment, are checked at the start, and are documented in one table."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stbass.errors import ConfigurationError
from stbass.settings import Settings, page, variables

ROOT = Path(__file__).parents[2]
SECRET = "sesame-open-sesame-open"

Read = Callable[[dict[str, str]], Settings]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """``read({…})``: the settings of an environment in which nothing of stbass is set but this."""

    def settings(environment: dict[str, str]) -> Settings:
        for name in [name for name in os.environ if name.upper().startswith("STBASS_")]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return Settings.from_environment()

    return settings


def test_with_nothing_set_everything_has_its_default(read: Read) -> None:
    settings = read({})
    assert settings == read({"STBASS_LEASE": ""})
    assert settings.for_celery() == {
        "broker_url": "redis://localhost:6379/0",
        "result_backend": "redis://localhost:6379/0",
        "include": (),
        "worker_pool": "stbass.backends.celery.pool:AsyncioPool",
        "worker_concurrency": 1000,
        "result_expires": 86400.0,
        "stbass_functions": (),
        "stbass_lease": 10.0,
        "stbass_grace": 10.0,
        "stbass_max_message_bytes": 16 * 2**20,
        "stbass_log_format": "text",
    }


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("STBASS_BROKER_URL", "rediss://user:pw@host:6380/1", "broker_url", "rediss://user:pw@host:6380/1"),
        ("STBASS_BROKER_URL", "redis+socket:///tmp/redis.sock", "broker_url", "redis+socket:///tmp/redis.sock"),
        ("STBASS_RESULT_BACKEND", "redis://[::1]:6379/2", "result_backend", "redis://[::1]:6379/2"),
        ("STBASS_SENTINEL_MASTER", "main", "sentinel_master", "main"),
        ("STBASS_KEY_PREFIX", "mine:", "key_prefix", "mine:"),
        ("STBASS_INCLUDE", "one.two, three,", "include", ("one.two", "three")),
        ("STBASS_FUNCTIONS", "one.two, three,", "functions", ("one.two", "three")),
        ("STBASS_REGISTRY", "one.two:three", "registry", "one.two:three"),
        ("STBASS_LIMITS", '{"a": "50, 9/s", "b": 3}', "limits", {"a": "50, 9/s", "b": "3"}),
        ("STBASS_SIGNING_KEY", SECRET, "signing_key", SECRET),
        ("STBASS_POOL", "solo", "pool", "solo"),
        ("STBASS_CONCURRENCY", "25", "concurrency", 25),
        ("STBASS_LEASE", "0.5", "lease", 0.5),
        ("STBASS_GRACE", "0", "grace", 0.0),
        ("STBASS_MAX_MESSAGE_BYTES", "1024", "max_message_bytes", 1024),
        ("STBASS_RESULT_EXPIRES", "60", "result_expires", 60.0),
        ("STBASS_LOG_FORMAT", "json", "log_format", "json"),
        ("STBASS_LLM_URL", "http://127.0.0.1:8080", "llm_url", "http://127.0.0.1:8080"),
        ("STBASS_CONCURRENCY", "  ", "concurrency", None),
    ],
)
def test_a_setting_is_read(read: Read, variable: str, text: str, field: str, value: Any) -> None:
    assert getattr(read({variable: text}), field) == value


def test_every_setting_is_among_those_tried_above() -> None:
    [parametrize] = [mark for mark in test_a_setting_is_read.pytestmark if mark.name == "parametrize"]
    assert {case[0] for case in parametrize.args[1]} == set(variables())


@pytest.mark.parametrize(
    ("variable", "text", "reason"),
    [
        ("STBASS_BROKER_URL", "localhost:6379", "must be a URL that starts with one of redis://"),
        ("STBASS_BROKER_URL", "http://localhost", "must be a URL that starts with one of redis://"),
        ("STBASS_BROKER_URL", "redis://", "host or port is missing or wrong"),
        ("STBASS_BROKER_URL", "redis://localhost:port", "host or port is missing or wrong"),
        ("STBASS_BROKER_URL", "redis://localhost:99999", "host or port is missing or wrong"),
        ("STBASS_BROKER_URL", "sentinel://one:26379;http://two", "must be a URL that starts with one of redis://"),
        ("STBASS_BROKER_URL", "amqp://localhost", "STBASS_RESULT_BACKEND: must be set when"),
        ("STBASS_BROKER_URL", "sentinel://one:26379", "STBASS_SENTINEL_MASTER: must be set, to the name of the master"),
        ("STBASS_RESULT_BACKEND", "amqp://localhost", "must be a URL that starts with one of redis://"),
        ("STBASS_KEY_PREFIX", "mine\n:", "none of them a control character"),
        ("STBASS_KEY_PREFIX", "x" * 201, "at most 200 characters"),
        ("STBASS_INCLUDE", "agents.py,my-agents", "'my-agents' is not the name of one"),
        ("STBASS_REGISTRY", "one.two", "STBASS_REGISTRY='one.two': must be module:name"),
        ("STBASS_SIGNING_KEY", "short", "at least 16 characters"),
        ("STBASS_POOL", "gevent", "STBASS_POOL='gevent': must be one of asyncio, prefork, threads, solo"),
        ("STBASS_CONCURRENCY", "0", "STBASS_CONCURRENCY='0': must be a whole number from 1"),
        ("STBASS_CONCURRENCY", "many", "must be a whole number from 1"),
        ("STBASS_CONCURRENCY", "1.5", "must be a whole number from 1"),
        ("STBASS_CONCURRENCY", "9" * 5000, "must be a whole number from 1"),
        ("STBASS_LEASE", "0", r"must be a number of seconds, at least 0\.1"),
        ("STBASS_LEASE", "nan", "must be a number of seconds"),
        ("STBASS_GRACE", "-1", "must be a number of seconds, at least 0"),
        ("STBASS_GRACE", "inf", "must be a number of seconds"),
        ("STBASS_MAX_MESSAGE_BYTES", "16MiB", "must be a whole number from 1024"),
        ("STBASS_LOG_FORMAT", "xml", "must be text or json"),
        ("STBASS_RESULT_EXPIRES", "0", "must be a number of seconds, more than 0"),
        ("STBASS_LLM_URL", "https://localhost", "must be a URL that starts with one of http://"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_and_the_reason(
    read: Read, variable: str, text: str, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        read({variable: text})
    assert variable in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("STBASS_BROKER_URL", f"redis://user:{SECRET}@host:port"),
        ("STBASS_BROKER_URL", f"redis://:{SECRET}"),
        ("STBASS_BROKER_URL", f"http://user:{SECRET}@host"),
        ("STBASS_BROKER_URL", SECRET),
        ("STBASS_RESULT_BACKEND", f"redis://user:{SECRET}@host:port"),
        ("STBASS_SIGNING_KEY", SECRET[:15]),
    ],
)
def test_an_error_never_shows_a_secret(read: Read, variable: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read({variable: text})
    shown = f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
    assert SECRET[:15] not in shown


def test_the_repr_shows_no_secret(read: Read) -> None:
    url = f"redis://user:{SECRET}@host"
    settings = read({"STBASS_BROKER_URL": url, "STBASS_RESULT_BACKEND": url, "STBASS_SIGNING_KEY": SECRET})
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    "name",
    [
        *("STBASS_SIGNIN_KEY", "STBASS_CONCURENCY", "stbass_signing_key"),
        *("STBASS_SIGNING", "STBASS_SIGNING_KEY_FILE", "STBASS_LEASE_SECONDS", "STBASS_BROKER"),
    ],
)
def test_a_misspelt_setting_is_refused(read: Read, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}: there is no such setting; do you mean STBASS_"):
        read({name: "anything"})


def test_other_variables_are_left_alone(read: Read) -> None:
    # given one of the user's own, and what Kubernetes tells every pod of a Service that is called stbass-registry
    service = {"STBASS_REGISTRY_SERVICE_HOST": "10.0.0.1", "STBASS_REGISTRY_PORT_80_TCP": "tcp://10.0.0.1:80"}
    assert read({"STBASS_SOMETHING_OF_MINE": "1", "PATH": "/bin", **service}) == read({})


def test_without_the_asyncio_pool_celery_chooses_the_concurrency(read: Read) -> None:
    made = read({"STBASS_POOL": "prefork"}).for_celery()
    assert (made["worker_pool"], made["worker_concurrency"]) == ("prefork", None)


def test_the_master_of_the_sentinels_goes_to_both_connections(read: Read) -> None:
    made = read(
        {"STBASS_BROKER_URL": "sentinel://one:26379;sentinel://two:26379", "STBASS_SENTINEL_MASTER": "main"}
    ).for_celery()
    assert made["broker_transport_options"] == made["result_backend_transport_options"] == {"master_name": "main"}


@pytest.mark.parametrize(("broker", "both"), [("redis://host/0", True), ("amqp://host", False)])
def test_the_prefix_goes_to_every_connection_to_redis(read: Read, broker: str, both: bool) -> None:
    made = read(
        {"STBASS_BROKER_URL": broker, "STBASS_RESULT_BACKEND": "redis://host/1", "STBASS_KEY_PREFIX": "mine:"}
    ).for_celery()
    assert made["result_backend_transport_options"] == {"global_keyprefix": "mine:"}
    assert made.get("broker_transport_options") == ({"global_keyprefix": "mine:"} if both else None)


def test_the_page_in_the_documentation_is_the_one_that_the_settings_make() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == page(), "run: python -m stbass.settings > docs/settings.md"


def test_the_page_has_a_row_for_every_setting() -> None:
    for field in Settings.model_fields.values():
        assert f"| `{field.validation_alias}` | {field.description} |" in page()
