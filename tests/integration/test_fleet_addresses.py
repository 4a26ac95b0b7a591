"""Redis in the ways Celery's settings may name it: with a password, on a unix socket, behind Sentinel, two servers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from stbass._process.context import ProcessContext
from stbass.backends.celery import CeleryBackend, make_app
from stbass.errors import BackendUnavailableError, ConfigurationError
from stbass.testing import RedisServer, Worker
from stbass.testing.redis_server import find_redis_server, free_port
from stbass.transports.redis.address import RedisAddress, hide_password
from tests.integration.conftest import APP
from tests.support.agents import Give
from tests.support.sentinel import answers
from tests.support.waiting import until


async def there_and_back(broker: str, results: str, **conf: Any) -> None:
    app = make_app("tests", broker_url=broker, result_backend=results, **conf)
    backend = CeleryBackend(app, queue="address")
    with Worker(APP, "address", env={"STBASS_BROKER_URL": broker, "STBASS_RESULT_BACKEND": results}):
        assert await backend.health_check()
        async with asyncio.timeout(10):
            assert (await backend.execute(Give((1, 2)), ProcessContext("give"))).value == (1, 2)
    await backend.aclose()


async def test_a_server_with_a_password() -> None:
    with RedisServer(password="p@ss/word") as server:
        await there_and_back(server.url, server.url)
        wrong = make_app("tests", broker_url=f"redis://:wrong-one@127.0.0.1:{server.port}/0")
        backend = CeleryBackend(wrong, queue="address")
        with pytest.raises(BackendUnavailableError) as caught:
            await backend.execute(Give(1), ProcessContext("give"))
        assert "wrong-one" not in str(caught.value)
        await backend.aclose()


async def test_a_unix_socket(tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    with RedisServer(args=("--unixsocket", str(socket))):
        url = f"redis+socket://{socket}"
        await there_and_back(url, url)


async def test_broker_and_results_on_two_servers() -> None:
    with RedisServer() as broker, RedisServer() as results:
        await there_and_back(broker.url, results.url)


async def test_two_databases_of_one_server() -> None:
    with RedisServer() as server:
        await there_and_back(server.url.replace("/0", "/1"), server.url.replace("/0", "/2"))


async def test_a_master_behind_sentinel(tmp_path: Path) -> None:
    with RedisServer() as master:
        port = free_port()
        config = tmp_path / "sentinel.conf"
        config.write_text(f"port {port}\nsentinel monitor mymaster 127.0.0.1 {master.port} 1\n")
        sentinel = await asyncio.create_subprocess_exec(
            str(find_redis_server()), str(config), "--sentinel", stdout=asyncio.subprocess.DEVNULL
        )
        try:
            url = f"sentinel://127.0.0.1:{port}/0"
            await until(lambda: answers(port))
            options = {"master_name": "mymaster"}
            app = make_app(
                "tests",
                broker_url=url,
                result_backend=url,
                broker_transport_options=options,
                result_backend_transport_options=options,
            )
            backend = CeleryBackend(app, queue="address")
            env = {"STBASS_BROKER_URL": url, "STBASS_RESULT_BACKEND": url, "TEST_MASTER": "mymaster"}
            with Worker(APP, "address", env=env):
                assert await backend.health_check()
                async with asyncio.timeout(10):
                    assert (await backend.execute(Give((1, 2)), ProcessContext("give"))).value == (1, 2)
            await backend.aclose()
        finally:
            sentinel.kill()
            await sentinel.wait()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@host:1/0", "redis://user:***@host:1/0"),
        ("redis://:secret@host", "redis://:***@host"),
        ("sentinel://:one@a:1;sentinel://:two@b:2", "sentinel://:***@a:1;sentinel://:***@b:2"),
        ("redis://host:1/0", "redis://host:1/0"),
        ("redis://:sec@ret@host:1/0", "redis://:***@host:1/0"),
        ("redis://host:1/0?password=secret&db=2", "redis://host:1/0?password=***&db=2"),
        ("redis:/:secret@host/0", "redis:***@host/0"),
        ("redis//user:secret@host/0", "redis//user:***@host/0"),
        ("sentinel://:one@a:1;:two@b:2", "sentinel://:***@a:1;:***@b:2"),
    ],
)
def test_passwords_are_hidden(url: str, shown: str) -> None:
    assert hide_password(url) == shown


@pytest.mark.parametrize("url", ["http://host", "amqp://host", "localhost:6379", ""])
def test_what_is_not_redis_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="result_backend"):
        RedisAddress.parse(url, "result_backend")


@pytest.mark.slow
async def test_the_event_loop_ends_cleanly() -> None:
    """A program that never closes its backend leaves no warning behind."""
    with (
        RedisServer() as server,
        Worker(APP, "address", env={"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}),
    ):
        code = (
            "import asyncio, sys\n"
            "from stbass.backends.celery import CeleryBackend, make_app\n"
            "from stbass._process.context import ProcessContext\n"
            "from tests.support.agents import Give\n"
            f"backend = CeleryBackend(make_app('t', broker_url={server.url!r}), queue='address')\n"
            "async def main(): print((await backend.execute(Give(5), ProcessContext('give'))).value)\n"
            "asyncio.run(main()); asyncio.run(main())\n"
        )
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            env=dict(os.environ),
            check=False,
        )
    assert done.stdout.split() == ["5", "5"]
    assert "Warning" not in done.stderr
    assert "never retrieved" not in done.stderr


async def test_where_no_sentinel_answers_the_error_says_which_were_asked() -> None:
    address = RedisAddress.parse(
        "sentinel://:hunter2@127.0.0.1:1/0;sentinel://127.0.0.1:2/0", "broker_url", {"master_name": "main"}
    )
    told = r"^no Sentinel answers at 127\.0\.0\.1:1, 127\.0\.0\.1:2 that knows of a master 'main'$"
    with address.client() as client, pytest.raises(redis.ConnectionError, match=told):
        client.ping()
    async with address.async_client() as other:
        with pytest.raises(redis.ConnectionError, match=told):
            await other.ping()
