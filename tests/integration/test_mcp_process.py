"""MCPProcess, MCPServer and MCPBackend as parts of a program: arguments, channels, seams, travelling, refusals."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from stbass import observe
from stbass._values.endpoint import Placement
from stbass.backends.threads import ThreadBackend
from stbass.channel import Chan
from stbass.errors import (
    ConfigurationError,
    MCPArgumentError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    MCPToolError,
    MCPUnknownToolError,
    NotTransportable,
    ProcessRefused,
)
from stbass.mcp import MCPBackend, MCPProcess, MCPServer, MCPTool, allow_command
from stbass.process import Process, ProcessContext
from stbass.result import ProcessResult
from stbass.wire import dump_result, dumps, load_result, loads_process
from tests.support.mcp_server import Server, serving, stdio_address

URL = "http://tools.example/mcp"


class Echo(MCPProcess):
    """Gives its arguments back, without a server."""

    async def _call_tool(self, arguments: dict[str, Any]) -> Any:
        return arguments


class Raising(MCPProcess):
    """Fails as it is told, without a server."""

    def __init__(self, error: BaseException, timeout: float | None = 30.0) -> None:
        super().__init__("http://anna:hush@tools.example/mcp", "tool", timeout)
        self.error = error

    async def _call_tool(self, arguments: dict[str, Any]) -> Any:
        raise self.error


class Search(MCPProcess):
    """Knows its server itself; only the limit travels."""

    def __init__(self, limit: int) -> None:
        super().__init__("stdio:python search.py", "search", arguments={"limit": limit})


async def run(process: MCPProcess, **channels: Chan[Any]) -> ProcessResult:
    async with asyncio.timeout(30):
        return await process.execute(ProcessContext(process.name, channels=channels))


# What it is --------------------------------------------------------------------------------------


def test_it_is_a_process_named_after_its_tool() -> None:
    process = MCPProcess(URL, "search", 5)
    assert isinstance(process, Process)
    assert (process.name, process.server_url, process.tool_name, process.timeout) == ("search", URL, "search", 5.0)
    assert MCPProcess(URL, "search").timeout == 30.0
    assert process.with_name("find").name == "find"
    assert process.optional().is_optional


def test_with_arguments_makes_a_copy() -> None:
    # Given
    process = MCPProcess(URL, "search")
    # When
    bound = process.with_arguments(query="occam", self="any name will do")
    more = bound.with_arguments(limit=3, query="csp").optional()
    # Then
    assert process.bound_arguments == {}
    assert bound.bound_arguments == {"query": "occam", "self": "any name will do"}
    assert more.bound_arguments == {"query": "csp", "self": "any name will do", "limit": 3}
    assert isinstance(more, MCPProcess)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("tools.example", "search"), ConfigurationError, "begins with its scheme"),
        ((URL, ""), ValueError, "cannot be empty"),
        ((URL, 7), TypeError, "is a str"),
        ((URL, "search", 0), ValueError, "more than 0 seconds"),
        ((URL, "search", float("nan")), ValueError, "more than 0 seconds"),
        ((URL, "search", "5"), TypeError, "number of seconds"),
        ((URL, "search", True), TypeError, "number of seconds"),
    ],
)
def test_what_it_cannot_be_made_of_is_refused_when_it_is_made(
    arguments: tuple[Any, ...], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        MCPProcess(*arguments)


# Arguments and channels --------------------------------------------------------------------------


async def test_without_a_channel_the_bound_arguments_are_sent() -> None:
    assert (await run(Echo(URL, "echo"))).value == {}
    assert (await run(Echo(URL, "echo").with_arguments(a=1))).value == {"a": 1}


@pytest.mark.parametrize(
    ("bound", "received", "sent"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({}, None, {}),
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": 1}, {"a": 2}, {"a": 1}),
        ({"a": 1}, None, {"a": 1}),
        ({"a": 1}, "a text of the stage before", {"a": 1}),
    ],
)
async def test_arguments_are_found_on_the_channel_input_and_what_is_bound_wins(
    bound: dict[str, Any], received: object, sent: dict[str, Any]
) -> None:
    # Given
    channel: Chan[Any] = Chan(object, name="input")
    process = Echo(URL, "echo").with_arguments(**bound).with_channels(input=channel)
    # When
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        running = group.create_task(process.execute(ProcessContext("echo")))
        await channel.send(received)
    # Then
    assert running.result().value == sent


async def test_what_is_no_mapping_of_arguments_is_a_failure() -> None:
    # Given
    channel: Chan[Any] = Chan(object, name="input")
    # When
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        running = group.create_task(run(Echo(URL, "echo"), input=channel))
        await channel.send(["a", "list"])
    # Then
    error = running.result().failure.error
    assert isinstance(error, MCPArgumentError)
    assert "channel 'input', got list" in str(error)
    assert f"tool 'echo' on {URL}" in str(error)


async def test_the_value_is_sent_on_the_channel_output_too() -> None:
    # Given
    channel: Chan[Any] = Chan(object, name="output")
    process = Echo(URL, "echo").with_arguments(a=1)
    # When
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        running = group.create_task(run(process, output=channel))
        received = await channel.recv()
    # Then
    assert received == {"a": 1}
    assert running.result().value == {"a": 1}


async def test_names_of_arguments_are_text(mcp_server: Server) -> None:
    channel: Chan[Any] = Chan(object, name="input")
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        running = group.create_task(run(MCPProcess(mcp_server.url, "add"), input=channel))
        await channel.send({1: 2})
    error = running.result().failure.error
    assert isinstance(error, MCPArgumentError)
    assert "a name of an argument is a str, got 1" in str(error)


# The seams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (ConnectionRefusedError("refused by anna:hush@tools"), MCPConnectionError),
        (OSError("no route"), MCPConnectionError),
        (TimeoutError("too slow"), MCPTimeoutError),
        (MCPToolError("it said no"), MCPToolError),
    ],
)
async def test_what_a_replaced_call_raises_is_a_failure_that_names_tool_and_server(
    raised: Exception, kind: type[MCPError]
) -> None:
    failure = (await run(Raising(raised))).failure
    assert type(failure.error) is kind
    assert "hush" not in failure.detailed.replace("def __init__", "")
    if kind is not MCPToolError:
        assert str(failure.error).startswith("tool 'tool' on http://***@tools.example/mcp: ")


async def test_another_error_of_a_replaced_call_stays_what_it_is() -> None:
    failure = (await run(Raising(LookupError("a slip of the pen")))).failure
    assert type(failure.error) is LookupError
    assert "while calling tool 'tool' on http://***@tools.example/mcp" in failure.traceback_str


async def test_a_replaced_call_is_bounded_by_the_timeout_too() -> None:
    class Hanging(MCPProcess):
        async def _call_tool(self, arguments: dict[str, Any]) -> Any:
            await asyncio.get_running_loop().create_future()

    error = (await run(Hanging(URL, "hang", 0.05))).failure.error
    assert isinstance(error, MCPTimeoutError)
    assert error.deadline == 0.05


@pytest.mark.parametrize(
    ("answer", "healthy"), [(True, True), (False, False), (ConnectionError("down"), False), (KeyError("x"), False)]
)
async def test_a_server_is_as_healthy_as_its_ping(answer: bool | Exception, healthy: bool) -> None:
    class Pinged(MCPServer):
        async def _ping(self) -> bool:
            if isinstance(answer, Exception):
                raise answer
            return answer

    assert await Pinged(URL).health() is healthy


# The server --------------------------------------------------------------------------------------


async def test_a_server_lists_its_tools_and_makes_processes_of_them(mcp_server: Server) -> None:
    # Given
    made = MCPServer(mcp_server.url, "calculator")
    # When
    tools = {tool.name: tool for tool in await made.tools()}
    # Then
    assert made.name == "calculator"
    assert made.url == mcp_server.url
    assert isinstance(tools["add"], MCPTool)
    assert tools["add"].description == "Add two numbers."
    assert tools["add"].input_schema is not None
    assert set(tools["add"].input_schema["properties"]) == {"a", "b"}
    process = made.tool("add", timeout=20.0)
    assert (process.server_url, process.tool_name, process.timeout) == (mcp_server.url, "add", 20.0)
    assert (await run(process.with_arguments(a=2, b=2))).value == {"result": 4}


async def test_health_says_whether_the_server_is_there(mcp_server: Server) -> None:
    assert await MCPServer(mcp_server.url).health() is True
    with serving("http") as other:
        gone = MCPServer(other.url)
        assert await gone.health() is True
    assert await gone.health() is False
    with pytest.raises(MCPConnectionError, match="cannot be reached"):
        await gone.tools()
    assert await MCPServer("stdio:false").health() is False


async def test_a_server_that_never_answers_is_not_healthy_and_lists_nothing() -> None:
    # Given
    release = asyncio.Event()

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    async with await asyncio.start_server(ignore, "127.0.0.1", 0) as listening:
        made = MCPServer(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/mcp")
        # Then
        async with asyncio.timeout(20):
            assert await made.health(timeout=0.3) is False
            with pytest.raises(MCPTimeoutError, match=r"no answer within 0\.3 s") as caught:
                await made.tools(timeout=0.3)
        assert caught.value.server == made.url
        release.set()


async def test_a_servers_headers_are_those_of_its_tools(mcp_server: Server) -> None:
    made = MCPServer(mcp_server.url, headers={"X-Team": "core"})
    assert (await run(made.tool("header").with_arguments(name="x-team"))).value == {"result": "core"}


# The backend -------------------------------------------------------------------------------------


async def test_a_backend_runs_a_tool_on_its_server_whatever_server_it_was_written_for(mcp_server: Server) -> None:
    # Given
    backend = MCPBackend(mcp_server.url, headers={"X-Team": "core"}, concurrency_limit=4)
    process = MCPProcess("http://127.0.0.1:9/mcp", "header").with_arguments(name="x-team")
    # When
    result = await backend.execute(process, ProcessContext("header", placement=Placement(endpoint="tools")))
    # Then
    assert result.value == {"result": "core"}
    assert process.server_url == "http://127.0.0.1:9/mcp"
    assert backend.concurrency_limit == 4
    assert backend.name == f"mcp:{mcp_server.url}"
    assert await backend.health_check() is True
    assert await MCPBackend("http://127.0.0.1:9/mcp").health_check() is False


async def test_a_backend_refuses_what_is_no_tool() -> None:
    # Given
    ran = False

    @Process
    async def agent(ctx: ProcessContext) -> None:
        nonlocal ran
        ran = True

    backend = MCPBackend("http://anna:hush@tools.example/mcp")
    # When
    result = await backend.execute(agent, ProcessContext("agent", placement=Placement(endpoint="tools")))
    # Then
    assert isinstance(result.failure.error, NotTransportable)
    assert result.failure.process_name == "agent"
    assert result.failure.placement == Placement(endpoint="tools")
    assert "'agent' is a FunctionProcess, and mcp:http://***@tools.example/mcp runs only tools" in str(
        result.failure.error
    )
    assert not ran


async def test_cancelling_a_backend_cancels_the_tool() -> None:
    # Given
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def look(event: observe.Event) -> None:
        if event.kind == "progress":
            told.set_result(event.note)

    with serving("http") as own:
        process = MCPProcess(URL, "wait", None)
        with observe.subscribe(look):
            running = asyncio.create_task(MCPBackend(own.url).execute(process, ProcessContext("wait")))
            async with asyncio.timeout(30):
                await told
        # When
        running.cancel()
        async with asyncio.timeout(10):
            with pytest.raises(asyncio.CancelledError):
                await running
            # Then
            assert await own.says() == "cancelled"


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_positive(limit: int) -> None:
    with pytest.raises(ValueError, match="concurrency_limit must be at least 1"):
        MCPBackend(URL, concurrency_limit=limit)


# Travelling --------------------------------------------------------------------------------------


def travelled(process: MCPProcess) -> Any:
    return loads_process(dumps(process), allowed=None, worker="w1")


def test_a_process_travels_with_its_arguments() -> None:
    # Given
    process = MCPProcess(URL, "search", timeout=5.0).with_arguments(query="occam")
    # When
    made = travelled(process.with_arguments(limit=3).with_name("find").optional())
    # Then
    assert type(made) is MCPProcess
    assert (made.server_url, made.tool_name, made.timeout) == (URL, "search", 5.0)
    assert made.bound_arguments == {"query": "occam", "limit": 3}
    assert made.name == "find"
    assert made.is_optional


async def test_a_process_travels_with_its_headers(mcp_server: Server) -> None:
    # Given
    process = MCPProcess(mcp_server.url, "header", headers={"X-Team": "core"}).with_arguments(name="x-team")
    # When
    made = travelled(process)
    # Then
    assert (await run(made)).value == {"result": "core"}


def test_a_subclass_travels_with_its_arguments_and_without_its_address() -> None:
    # Given
    process = Search(7).with_arguments(query="occam")
    # When
    message = dumps(process)
    made = loads_process(message, allowed=None)
    # Then
    assert b"search.py" not in bytes(message)
    assert isinstance(made, Search)
    assert made.bound_arguments == {"limit": 7, "query": "occam"}
    assert made.server_url == "stdio:python search.py"


@pytest.mark.parametrize(
    "error",
    [
        MCPError("a", tool="t", server="s"),
        MCPConnectionError("b", tool="t", server="s", status=503),
        MCPTimeoutError("c", tool="t", server="s", deadline=1.5),
        MCPToolError("d", tool="t", server="s", content=[{"type": "text", "text": "no"}], code=-32602),
        MCPUnknownToolError("e", tool="t", server="s", known=("add", "shout")),
        MCPArgumentError("f", tool="t", server="s"),
    ],
)
def test_failures_travel_unchanged(error: MCPError) -> None:
    # When
    made = load_result(dump_result(ProcessResult.fail(error))).failure.error
    # Then
    assert type(made) is type(error)
    assert str(made) == str(error)
    for name in ("tool", "server", "status", "deadline", "content", "code", "known"):
        assert getattr(made, name, None) == getattr(error, name, None)


async def on_a_worker(process: MCPProcess) -> ProcessResult:
    async with ThreadBackend(1, name="w1") as worker:
        return await worker.execute(process, ProcessContext(process.name))


async def test_a_message_does_not_decide_what_command_a_worker_runs() -> None:
    # Given
    process = travelled(MCPProcess("stdio:false # as it was sent", "add", 60.0))
    # When
    error = (await on_a_worker(process)).failure.error
    # Then
    assert isinstance(error, ProcessRefused)
    assert error.worker == "w1"
    assert "allow_command" in str(error)


async def test_a_worker_runs_the_commands_that_it_allows() -> None:
    # Given
    address = allow_command(stdio_address())
    process = travelled(MCPProcess(address, "add", 60.0).with_arguments(a=1, b=2))
    # When
    result = await on_a_worker(process)
    # Then
    assert result.value == {"result": 3}


async def test_a_worker_runs_the_commands_of_the_classes_that_it_knows() -> None:
    process = travelled(Search(7))
    error = (await on_a_worker(process)).failure.error
    assert isinstance(error, MCPConnectionError)  # there is no search.py, but it was tried


# Without the package -----------------------------------------------------------------------------


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_it_does_not_import_the_mcp_package() -> None:
    loaded = python("import sys, stbass.mcp; print([n for n in ('mcp', 'mcp_types', 'httpx2') if n in sys.modules])")
    assert loaded == "[]"


def test_without_the_mcp_package_a_call_says_what_to_install() -> None:
    says = python(
        "import asyncio, sys\n"
        "sys.modules['mcp'] = None\n"
        "from stbass.mcp import MCPProcess, MCPServer\n"
        "from stbass.errors import MissingDependencyError\n"
        "from stbass.process import ProcessContext\n"
        "async def main():\n"
        "    result = await MCPProcess('http://127.0.0.1:9/mcp', 'add').execute(ProcessContext('add'))\n"
        "    print(repr(result.failure.error))\n"
        "    try:\n"
        "        await MCPServer('http://127.0.0.1:9/mcp').health()\n"
        "    except MissingDependencyError as error:\n"
        "        print('health:', error)\n"
        "asyncio.run(main())\n"
    )
    first, second = says.splitlines()
    assert first.startswith("MissingDependencyError(")
    assert 'pip install "stbass-celery[mcp]"' in first
    assert second.startswith("health: ")
