"""``install`` leaves a Celery application as it is: not configured, not finalized, with its own connections."""

from __future__ import annotations

import io
import json
import logging
import pickle
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from celery import Celery, signals
from celery.app.amqp import AMQP
from celery.app.log import Logging
from kombu.connection import Connection
from kombu.transport import get_transport_cls
from kombu.transport import redis as stock

from stbass import BackendRegistry, Placement
from stbass.backends.celery import CeleryBackend, install, make_app
from stbass.backends.celery.settings import EXECUTE, fleet_of
from stbass.backends.celery.transport import SentinelTransport, Transport
from stbass.backends.celery.worker.task_signals import somebody_listens
from stbass.errors import ConfigurationError
from stbass.transports.redis.address import RedisAddress
from tests.support import nested

REDIS = "redis://:hush@localhost:6390/3"


class OwnConnection(Connection):
    """A connection class of an application's own."""


class OwnAMQP(AMQP):
    """An application's own."""

    own = True


def _hook(app: Celery) -> list[str]:
    fired: list[str] = []

    def hello() -> int:
        return 1

    task = app.task(hello, name="hello", shared=False)

    def configured(sender: Celery, **_details: Any) -> None:
        fired.append("configured")
        sender.add_periodic_task(10.0, task.s(), name="every 10")

    app.on_configure.connect(lambda **_details: fired.append("configures"), weak=False)
    app.on_after_configure.connect(configured, weak=False)
    app.on_after_finalize.connect(lambda **_details: fired.append("finalized"), weak=False)
    return fired


@pytest.mark.parametrize("with_backend", [False, True])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("current", [False, True])
def test_hooks_connected_after_install_fire(current: bool, times: int, with_backend: bool) -> None:
    app = Celery("shop", broker=REDIS, backend=REDIS, set_as_current=current)
    for _ in range(times):
        install(app)
    if with_backend:
        CeleryBackend(app)
    assert not app.configured
    assert not app.finalized
    fired = _hook(app)
    app.finalize()
    assert app.conf.timezone is None
    assert sorted(fired) == ["configured", "configures", "finalized"]
    assert list(app.conf.beat_schedule) == ["every 10"]
    assert {EXECUTE, "hello"} <= set(app.tasks)
    assert app.tasks[EXECUTE].app is app


def test_hooks_of_a_made_application_fire() -> None:
    app = make_app("made", REDIS)
    assert not app.configured
    fired = _hook(app)
    app.finalize()
    assert app.conf.broker_transport_options == {"priority_steps": [0]}
    assert sorted(fired) == ["configured", "configures", "finalized"]
    assert EXECUTE in app.tasks


@pytest.mark.parametrize("finalized", [False, True])
@pytest.mark.parametrize("configured", [False, True])
def test_install_works_at_any_time(finalized: bool, configured: bool) -> None:
    app = Celery("shop", broker=REDIS, backend=REDIS)
    if configured:
        assert app.conf.task_default_queue == "celery"
    if finalized:
        app.finalize()
    install(app)
    assert EXECUTE in app.tasks
    with app.connection_for_write() as connection:
        assert type(connection.transport) is Transport


def test_configuration_that_comes_later_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("shop_settings")
    module.CELERY_BROKER_URL = module.CELERY_RESULT_BACKEND = REDIS
    module.CELERY_STBASS_LEASE = 3.5
    monkeypatch.setitem(sys.modules, "shop_settings", module)
    app = install(Celery("shop"))
    backend = CeleryBackend(app)
    app.config_from_object("shop_settings", namespace="CELERY")
    assert backend.settings.lease == 3.5
    assert backend.settings.backend.url == REDIS


@pytest.mark.parametrize("setting", ["broker_url", "result_backend"])
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://:hunter2@h:port/0", "the port in a URL must be a number from 0 to 65535"),
        ("redis://h:99999/0", "the port in a URL must be a number"),
        ("redis://u:hunter2", "the port in a URL must be a number"),
        ("redis://:hunter2/x@h", "the port in a URL must be a number"),
        ("redis://[::1", "an address with colons stands in brackets"),
        ("redis://:hunter2@h/0?socket_timeout=soon", "Invalid value for 'socket_timeout'"),
        ("redis://:hunter2@h/0?db=first", "Invalid value for 'db'"),
        ("redis://:hunter2@h/0?no_such=1", "there is no parameter 'no_such' for such a URL"),
        ("redis://h/0?password=hunter2&protocol=9", "protocol must be"),
        ("rediss://:hunter2@h/0?ssl_cert_reqs=perhaps", "perhaps"),
        ("unix:///tmp/x?password=hunter2&db=x", "Invalid value for 'db'"),
        ("redis://:hunter2@h/first", "what stands after the host is the number of a database"),
        ("redis://:hunter2@h/0/1", "what stands after the host is the number of a database"),
    ],
)
def test_a_url_of_which_a_part_is_wrong_is_refused_by_the_name_of_its_setting(
    setting: str, url: str, reason: str
) -> None:
    app = Celery("shop", set_as_current=False)
    app.conf.update({"broker_url": REDIS, "result_backend": REDIS} | {setting: url})
    with pytest.raises(ConfigurationError, match=reason) as raised:
        _ = fleet_of(install(app)).settings
    assert str(raised.value).startswith(setting)
    assert "hunter2" not in str(raised.value)


def test_what_is_wrong_with_the_one_url_of_an_application_is_told_of_its_broker() -> None:
    with pytest.raises(ConfigurationError, match=r"^broker_url=.*there is no parameter 'no_such'"):
        make_app(broker_url="redis://h/0?no_such=1")


def test_the_name_of_a_master_counts_only_with_sentinel() -> None:
    address = RedisAddress.parse("redis://127.0.0.1:6379/3", "broker_url", {"master_name": "main"})
    assert (address.master_name, address.database) == (None, 3)


def test_the_url_shows_as_it_was_given() -> None:
    app = install(Celery("shop", broker=REDIS, backend=REDIS))
    with app.connection_for_read() as connection:
        assert type(connection.transport) is Transport
        for one in (connection, connection.clone(), pickle.loads(pickle.dumps(connection))):
            assert one.as_uri() == "redis://:**@localhost:6390/3"
            assert one.as_uri(include_password=True) == REDIS
            assert one.info()["transport"] == "redis"
            assert type(one.transport) is Transport
    assert not app.conf.broker_transport
    with app.pool.acquire() as pooled, app.producer_pool.acquire() as producer:
        for one in (pooled, producer.connection):
            assert one.as_uri() == "redis://:**@localhost:6390/3"
            assert type(one.transport) is Transport


def test_a_stock_application_beside_it_stays_stock() -> None:
    ours, other = install(Celery("shop", broker=REDIS)), Celery("other", broker=REDIS)
    with other.pool.acquire() as theirs, ours.pool.acquire() as own:
        assert type(theirs.transport) is stock.Transport
        assert type(own.transport) is Transport


@pytest.mark.parametrize(
    ("url", "transport"),
    [
        ("memory://", get_transport_cls("memory")),
        ("sentinel://localhost:26379", SentinelTransport),
        ("memory://;redis://localhost", get_transport_cls("memory")),
    ],
)
def test_each_broker_has_its_transport(url: str, transport: type) -> None:
    app = install(Celery("shop", broker=url))
    with app.connection_for_read() as connection:
        assert connection.get_transport_cls() is transport


def test_after_a_failover_each_broker_has_its_transport() -> None:
    app = install(Celery("shop", broker="memory://localhost;redis://localhost"))
    with app.connection_for_read() as connection:
        connection.maybe_switch_next()
        assert connection.get_transport_cls() is Transport


@pytest.mark.parametrize("used", [False, True])
def test_what_the_application_brings_stays(used: bool) -> None:
    class Owning(OwnAMQP):
        Connection = OwnConnection

    for amqp, connection in ((OwnAMQP, None), (Owning, OwnConnection)):
        app = Celery("shop", broker=REDIS, amqp=amqp)
        if used:
            assert app.conf.broker_url
            assert app.amqp.own
        install(app)
        assert app.amqp.own
        assert connection is None or type(app.connection_for_read()) is connection


def test_a_transport_that_is_set_is_used() -> None:
    app = install(Celery("shop", broker=REDIS))
    app.conf.broker_transport = "memory"
    assert app.connection_for_read().get_transport_cls() is get_transport_cls("memory")


def test_an_application_still_travels_to_a_spawned_worker() -> None:
    app = install(Celery("shop", broker=REDIS, backend=REDIS))
    again = pickle.loads(pickle.dumps(app))
    assert type(again.connection_for_read().transport) is Transport


def test_signals_of_processes_are_sent_when_somebody_listens() -> None:
    def hear(**_told: Any) -> None:
        pass

    assert not somebody_listens()
    for signal in (signals.task_prerun, signals.task_postrun, signals.task_success, signals.task_failure):
        signal.connect(hear)
        assert somebody_listens()
        signal.disconnect(hear)
    assert not somebody_listens()


@pytest.fixture
def unset_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logging as it is before Celery sets it up, once per Python process; afterwards as it was."""
    loggers = [logging.getLogger(name) for name in (None, "celery", "celery.task", "celery.redirected")]
    before = [(logger, logger.handlers, logger.level, logger.propagate) for logger in loggers]
    for name in ("CELERY_LOG_LEVEL", "_MP_FORK_LOGLEVEL_", "_MP_FORK_LOGFILE_", "_MP_FORK_LOGFORMAT_"):
        monkeypatch.setenv(name, "")
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.level, logger.propagate = handlers, level, propagate
    Logging._setup = False


class OwnLogging(Logging):
    """An application's own."""

    own = True


@pytest.mark.usefixtures("unset_logging")
@pytest.mark.parametrize("early", [False, True], ids=["", "used before"])
@pytest.mark.parametrize("formats", [("json", "text"), ("text", "json")])
def test_each_application_logs_in_its_format(formats: tuple[str, str], early: bool) -> None:
    apps = [Celery(name, broker=REDIS, backend=REDIS, log=OwnLogging) for name in formats]
    if early:
        assert all(app.log.own for app in apps)
    for app in apps:
        install(app)
        app.conf.stbass_log_format = app.main
    for app in apps:
        Logging._setup = False
        for logger in (logging.getLogger(), logging.getLogger("celery.task")):
            logger.handlers = []
        written = io.StringIO()
        app.log.setup_logging_subsystem("INFO", written)
        assert app.log.own
        for name in ("shop", "celery.task.shop"):
            logging.getLogger(name).info("sold")
            line = written.getvalue().splitlines()[-1]
            assert (line.startswith("{") and json.loads(line)["message"] == "sold") == (app.main == "json")
        assert len(written.getvalue().splitlines()) == 2


# Where a worker looks placements up ----------------------------------------------------------------


def _worker_s_registry(app: Celery) -> BackendRegistry:
    """What a worker of the application looks placements up in, from its start on."""
    app.loader.import_default_modules()
    return fleet_of(app).registry


def test_every_endpoint_is_a_queue_unless_the_application_says_otherwise() -> None:
    app = make_app("made", REDIS, stbass_lease=3.0)
    registry = _worker_s_registry(app)
    backend = registry.get(Placement(endpoint="anything"))
    assert isinstance(backend, CeleryBackend)
    assert backend.name == "celery:*"
    assert registry.get(Placement(model="opus")) is registry.default


def test_an_application_can_bring_its_own_registry() -> None:
    own = BackendRegistry()
    app = Celery("shop", broker=REDIS, backend=REDIS, set_as_current=False)
    assert _worker_s_registry(install(app, registry=own)) is own
    # Also where it was installed before, without one.
    app = make_app("made", REDIS)
    assert _worker_s_registry(install(app, registry=own)) is own
    named = make_app("made", REDIS, stbass_registry="tests.support.nested:registry")
    assert _worker_s_registry(named) is nested.registry


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tests.support.nested:A", "'A' of 'tests.support.nested' is .*, not a BackendRegistry"),
        ("tests.support.nested:no_such", "the module 'tests.support.nested' has no 'no_such'"),
        ("tests.support.no_such:registry", "cannot import 'tests.support.no_such'"),
        ("nothing", "must be module:name"),
        (":registry", "must be module:name"),
        (5, "must be module:name"),
    ],
)
def test_a_registry_that_is_none_ends_the_worker_at_its_start(name: Any, reason: str) -> None:
    app = make_app("made", REDIS, stbass_registry=name)
    with pytest.raises(ConfigurationError, match=reason) as raised:
        app.loader.import_default_modules()
    assert "STBASS_REGISTRY" in str(raised.value)


def test_two_registries_are_refused() -> None:
    app = install(make_app("made", REDIS, stbass_registry="tests.support.nested:registry"), registry=BackendRegistry())
    with pytest.raises(ConfigurationError, match="install\\(\\) was given a registry already"):
        app.loader.import_default_modules()
    with pytest.raises(TypeError, match="registry must be a BackendRegistry"):
        install(app, registry={})  # type: ignore[arg-type]
