"""A worker tells which queues it consumes, so that producers know whether anybody will run their processes."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from typing import Any

import msgspec
import redis
from celery import bootsteps

from stbass._values.ids import new_id
from stbass._values.texts import shortened
from stbass.backends.celery import keys
from stbass.backends.celery.amqp_transport import AmqpChannel
from stbass.backends.celery.line import WaitingLine
from stbass.backends.celery.settings import fleet_of, included
from stbass.backends.celery.sweep import Sweeper
from stbass.backends.celery.transport import Channel
from stbass.backends.celery.worker import control as _control  # noqa: F401 - it answers when it is imported
from stbass.backends.celery.worker.loop_watch import BLOCKED_SECONDS
from stbass.backends.celery.worker.runtime import exit_code_of_failure, this_runtime
from stbass.backends.celery.worker.what_runs import tell_what_runs
from stbass.errors import ConfigurationError
from stbass.transports.redis.address import NO_CLUSTER, RedisAddress, is_cluster
from stbass.transports.redis.trouble import LONGEST_PAUSE, Trouble, Vigil, trouble_of

__all__ = ["Announcement"]

_log = logging.getLogger(__name__)
_ANNOUNCE_SECONDS = 2.0
_LONGEST_REASON = 2000
_PAUSE_MOST = 5.0
"""Seconds between announcements at most: so soon one that the server has lost is there again."""


class Announcement(bootsteps.StartStopStep):
    """Celery bootstep: subscribes to a channel per consumed queue for as long as the worker lives.

    The subscription ends with the worker's connection, however the worker ends: nobody has to notice its death.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    _announcer: _Announcer | None = None

    def start(self, consumer: Any) -> None:
        """Announce the worker.

        Raises:
            ConfigurationError: the results are to be in a cluster.
        """
        self._refuse_cluster(fleet_of(consumer.app).settings.backend)
        Channel.refusals = AmqpChannel.refusals = fleet_of(consumer.app).refusals
        self._announcer = _Announcer(consumer)
        self._announcer.start()
        # Who is told that the worker is ready may ask whether its queue is consumed.
        self._announcer.announced.wait(_ANNOUNCE_SECONDS)
        if getattr(consumer.pool, "runs_processes", False):
            consumer.pool.serve(consumer)

    def _refuse_cluster(self, address: RedisAddress) -> None:
        with contextlib.closing(address.client()) as client:
            try:
                info: Any = client.info("server")
            except (redis.RedisError, OSError) as error:
                # It is away; whoever needs it says so, and waits.
                _log.debug("cannot ask Redis at %s what it is: %s", address, error)
                return
        if is_cluster(info):
            raise ConfigurationError(f"the result backend {address} cannot be used: {NO_CLUSTER}")

    def stop(self, consumer: Any) -> None:
        """Take the announcement back."""
        announcer, self._announcer = self._announcer, None
        if announcer is not None:
            announcer.stop()
        if (code := exit_code_of_failure()) is not None:
            consumer.controller.exitcode = code

    shutdown = stop


class _Announcer(threading.Thread):
    def __init__(self, consumer: Any) -> None:
        super().__init__(name="stbass-announcement", daemon=True)
        self._consumer = consumer
        fleet = fleet_of(consumer.app)
        self._settings = fleet.settings
        self.announced = threading.Event()
        """Set once producers can see the worker."""
        self._stopping = threading.Event()
        self._instance = new_id()
        self._namesakes = {self._instance}
        self._subscription: Any = None
        self._refusals = fleet.refusals
        self._sweeper = Sweeper(fleet.settings, fleet.result_prefix, fleet.refusals, fleet.app)
        self._line = WaitingLine(fleet.settings, fleet.result_prefix, fleet.app)
        self._vigil = Vigil("announce the worker and look for lost ones", self._settings.servers, _log)

    def stop(self) -> None:
        """End the thread and take the announcement back."""
        self._stopping.set()
        subscription = self._subscription
        if subscription is not None and subscription.connection is not None:
            # Wakes the thread out of its read.
            subscription.connection.disconnect()
        self.join(timeout=5)

    def run(self) -> None:
        client = self._settings.backend.client()
        key = self._settings.keys.worker(self._instance)
        while not self._stopping.is_set():
            try:
                self._announce(client, key)
            except Exception as error:
                if not self._stopping.is_set():
                    self._stopping.wait(self._pause(error))
        try:
            client.delete(key)
        except (redis.RedisError, OSError) as error:
            _log.warning("cannot take back the announcement of the worker: %s", error)
        client.close()
        self._line.close()
        self._sweeper.close()

    def _pause(self, error: Exception) -> float:
        if isinstance(error, (ValueError, AttributeError, TypeError)):
            # What redis-py raises if the connection goes while it reads.
            error = redis.ConnectionError(f"{type(error).__name__}: {error}")
        if trouble_of(error) is not Trouble.NEVER:
            self._sweeper.rest()
        try:
            return self._vigil.pause(error)
        except Exception:
            # It must not end this thread: without it the worker is not seen, and nobody looks for lost ones.
            _log.exception("cannot announce the worker; trying again")
            return LONGEST_PAUSE

    def _announce(self, client: redis.Redis, key: str) -> None:
        lease, names = self._settings.lease, self._settings.keys
        pause = min(lease / 2, _PAUSE_MOST)
        subscribed: set[str] = set()
        options = self._settings.backend.options
        for queue, limit in self._settings.limits.items():
            self._line.limit(queue, limit, "settings")
        announce_at, asked = 0.0, False
        with (
            contextlib.closing(self._settings.backend.client(listens=True)) as listener,
            listener.pubsub() as subscription,
        ):
            self._subscription = subscription
            while not self._stopping.is_set():
                info = self._info()
                # Its own channel tells it from a worker that died while its announcement still stands.
                wanted = {names.queue_channel(queue) for queue in info.queues}
                wanted |= {names.alive_channel(info.instance), names.name_channel(info.name)}
                if wanted - subscribed:
                    subscription.subscribe(*(wanted - subscribed))
                if subscribed - wanted:
                    subscription.unsubscribe(*(subscribed - wanted))
                subscribed = wanted
                now = time.monotonic()
                if now >= announce_at:
                    announce_at = now + pause
                    client.set(key, msgspec.json.encode(info), px=int(lease * 2000))
                    self._sweeper.sweep()
                    self._vigil.over()
                # This waits, and learns at once if the connection breaks; one that a firewall forgot is never closed.
                wait = options.sign_of_life if asked else min(pause, options.health_check_interval or pause)
                message = subscription.get_message(timeout=wait)
                if message is None and asked:
                    raise redis.TimeoutError(f"no sign of life for {wait:g} s")
                asked = message is None
                if asked:
                    subscription.ping()
                elif message["type"] == "subscribe":
                    self.announced.set()
                    if message["channel"].decode() == names.name_channel(info.name):
                        self._introduce(client, info)
                elif message["type"] == "message" and message["channel"].decode() == names.name_channel(info.name):
                    self._meet(client, info, message["data"])
                elif message["type"] == "message":
                    self._answer(client, message["data"])

    def _introduce(self, client: redis.Redis, info: keys.WorkerInfo) -> None:
        client.publish(self._settings.keys.name_channel(info.name), msgspec.json.encode(info))

    def _meet(self, client: redis.Redis, info: keys.WorkerInfo, raw: bytes) -> None:
        """Another worker of this name, or this one itself, says that it is there."""
        try:
            other = msgspec.json.decode(raw, type=keys.WorkerInfo)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._refusals.note("announcement", error, raw)
            return
        if other.instance in self._namesakes:
            return
        self._namesakes.add(other.instance)
        # So that it hears of this one, too.
        self._introduce(client, info)
        _log.warning(
            "another worker is called %s: process %d on %s (this one is process %d on %s). Logs, results and Celery's"
            " remote control cannot tell them apart, and what is said to one is said to both: give each a name of its"
            " own, e.g. -n name-%%i@%%h",
            info.name,
            other.pid,
            other.host,
            info.pid,
            info.host,
        )

    def _answer(self, client: redis.Redis, raw: bytes) -> None:
        """Somebody asks whether this worker takes messages, and waits at a list: only of a health check's kind."""
        name = raw.decode("utf-8", "replace")
        channel = getattr(self._consumer.task_consumer, "channel", None)
        if name.startswith(self._settings.keys.here("")) and getattr(channel, "hears", True):
            # On Celery's pools of Python processes each has an event loop of its own, and there is none here.
            runtime = this_runtime()
            blocked = None if runtime is None else runtime.watch.blocked(BLOCKED_SECONDS)
            reason = shortened(blocked or "", _LONGEST_REASON)
            answer = keys.WorkerAnswer(self._consumer.hostname, self._instance, reason)
            if runtime is not None and self._settings.keys.asks_what_runs(name):
                tell_what_runs(runtime, answer)
            pipe = client.pipeline(transaction=False)
            pipe.rpush(name, msgspec.json.encode(answer))
            pipe.expire(name, keys.HERE_TTL)
            pipe.execute()

    def _info(self) -> keys.WorkerInfo:
        consumer = self._consumer
        queues = [queue.name for queue in getattr(consumer.task_consumer, "queues", None) or ()]
        return keys.WorkerInfo(
            consumer.hostname,
            os.getpid(),
            queues,
            consumer.pool.num_processes or 0,
            # The command line may have added modules to those that the application names.
            list(included(consumer.app.conf)),
            self._instance,
            socket.gethostname(),
            self._settings.signs,
        )
