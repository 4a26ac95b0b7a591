"""Retrying after some kinds of errors and not after others, and waiting as long as the error says."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest

from stbass import PAR, PLACED_PAR, SEQ, FailurePolicy, Process, wire
from stbass._process.context import ProcessContext
from stbass._values.retry_after import retry_after
from stbass.context import running_context
from stbass.errors import ConfigurationError, RemoteError, WireError
from stbass.failure import retry_process
from stbass.result import RetryPolicy
from stbass.workflow import BaseProcess, ProcessConfig, RetryStrategy, Workflow, WorkflowNode
from tests.support.compose import give
from tests.support.wire_samples import Thorny, WallError


class RateLimitError(Exception):
    """As the SDKs have it: of a response."""

    def __init__(self, message: str = "slow down", headers: Any = None) -> None:
        super().__init__(message)
        self.status_code = 429
        self.response = SimpleNamespace(headers={} if headers is None else headers)


class QuotaError(RateLimitError):
    pass


class AuthenticationError(Exception):
    status_code = 401


def raising(*errors: BaseException) -> tuple[Process, list[int]]:
    """A process that raises one error after the other, then succeeds; and the attempts that it made."""
    attempts: list[int] = []

    @Process
    async def raises(ctx: ProcessContext) -> int:
        attempts.append(ctx.attempt)
        if ctx.attempt <= len(errors):
            raise errors[ctx.attempt - 1]
        return ctx.attempt

    return raises, attempts


async def attempts_of(policy: RetryPolicy, *errors: BaseException) -> int:
    process, attempts = raising(*errors)
    await PAR(process, on_failure=policy).run()
    return len(attempts)


def quick(**kinds: Any) -> RetryPolicy:
    return FailurePolicy.retry(3, "constant", 0.0, **kinds)


GROUP = BaseExceptionGroup("both", [RateLimitError(), ValueError()])


@pytest.mark.parametrize(
    ("kinds", "error", "attempts"),
    [
        ({}, AuthenticationError(), 2),
        ({"on": RateLimitError}, RateLimitError(), 2),
        ({"on": (RateLimitError, TimeoutError)}, QuotaError(), 2),
        ({"on": (RateLimitError, TimeoutError)}, AuthenticationError(), 1),
        ({"unless": (AuthenticationError,)}, AuthenticationError(), 1),
        ({"unless": (AuthenticationError,)}, RateLimitError(), 2),
        ({"on": (Exception,), "unless": (RateLimitError,)}, QuotaError(), 1),
        # By name.
        ({"on": "RateLimitError"}, QuotaError(), 2),
        ({"on": [f"{__name__}.RateLimitError"]}, QuotaError(), 2),
        ({"on": [f"{__name__}:RateLimitError"]}, RateLimitError(), 2),
        ({"on": ["openai.RateLimitError"]}, RateLimitError(), 1),
        # Of a class that is only known elsewhere.
        ({"on": ["RateLimitError"]}, RemoteError("x", type_name="openai:RateLimitError"), 2),
        ({"unless": ["openai.RateLimitError"]}, RemoteError("x", type_name="openai:RateLimitError"), 1),
        ({"on": [QuotaError]}, RemoteError("x", type_name=f"{__name__}:QuotaError"), 2),
        ({"on": [QuotaError]}, RemoteError("x", type_name="elsewhere:QuotaError"), 1),
        ({"on": [RateLimitError]}, RemoteError("x", type_name="a:B", type_bases=(f"{__name__}:RateLimitError",)), 2),
        ({"on": ["RateLimitError"]}, RemoteError("x", type_name="a:B", type_bases=("openai:RateLimitError",)), 2),
        # Groups: all of one that is tried again, any of one that is not.
        ({"on": (RateLimitError,)}, GROUP, 1),
        ({"on": (RateLimitError, ValueError)}, GROUP, 2),
        ({"on": (BaseExceptionGroup,)}, GROUP, 2),
        ({"unless": (ValueError,)}, GROUP, 1),
    ],
)
async def test_kinds(kinds: dict[str, Any], error: BaseException, attempts: int) -> None:
    assert await attempts_of(quick(**kinds), error) == attempts


async def test_the_kinds_hold_in_every_composition_and_for_a_process_alone() -> None:
    for run in (
        lambda process: PAR(process, on_failure=quick(unless=AuthenticationError)).run(),
        lambda process: SEQ(process, on_failure=quick(unless=AuthenticationError)).run(),
        lambda process: retry_process(process, ProcessContext("p"), quick(unless=AuthenticationError)),
    ):
        process, attempts = raising(RateLimitError(), AuthenticationError(), RateLimitError())
        await run(process)
        assert attempts == [1, 2]


async def test_a_composition_that_is_tried_again_is_known_by_the_errors_of_its_processes() -> None:
    process, attempts = raising(AuthenticationError())
    await PAR(SEQ(process), on_failure=quick(unless=AuthenticationError)).run()
    assert attempts == [1]


async def test_the_kinds_hold_in_a_workflow() -> None:
    tried: list[int] = []

    class Refused(BaseProcess):
        def process(self, input_data: Any) -> None:
            tried.append(1)
            raise AuthenticationError

    strategy = RetryStrategy(3, delay_seconds=0, unless=[AuthenticationError])
    result = await Refused(ProcessConfig(retry_strategy=strategy)).execute(None)
    assert result.error_type == "AuthenticationError"
    assert len(tried) == 1


async def test_a_node_that_is_tried_again_goes_on_from_its_checkpoint() -> None:
    resumed: list[Any] = []

    class Saves(BaseProcess):
        async def process(self, input_data: Any) -> None:
            ctx = running_context()
            assert ctx is not None
            resumed.append(ctx.resumed_from)
            ctx.checkpoint(ctx.attempt)
            if ctx.attempt < 3:
                raise ValueError

    flow = Workflow()
    flow.add_node(WorkflowNode(Saves(ProcessConfig(retry_strategy=RetryStrategy(3, delay_seconds=0)))))
    await flow.execute()
    assert resumed == [None, 1, 2]


@pytest.mark.parametrize(
    "arguments",
    [
        {"on": 429},
        {"on": (ValueError, 429)},
        {"on": (int,)},
        {"on": ValueError()},
        {"on": ""},
        {"on": "rate limit"},
        {"unless": (None,)},
        {"unless": ("a..b",)},
        {"wait": 3},
        {"wait": lambda: 1},
        {"wait": asyncio.sleep},
    ],
)
def test_bad_arguments_are_refused_at_once(arguments: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=r"on|unless|wait"):
        FailurePolicy.retry(3, **arguments)
    with pytest.raises((TypeError, ValueError), match=r"on|unless|wait"):
        RetryStrategy(3, **arguments)


def test_a_wait_function_is_asked_with_the_attempt_and_the_error() -> None:
    error = RateLimitError()
    policy = FailurePolicy.retry(3, wait=lambda attempt, given: 5 + attempt if given is error else -1)
    assert [policy.wait_after(attempt, error) for attempt in range(2)] == [5, 6]


@pytest.mark.parametrize("gives", [lambda *_: "soon", lambda *_: -1, lambda *_: math.nan, lambda *_: 1 / 0])
async def test_a_wait_function_that_is_wrong_says_so_and_what_went_before(gives: Callable[..., Any]) -> None:
    error = RateLimitError("slow down")
    process, attempts = raising(error)
    result = await PAR(process, on_failure=FailurePolicy.retry(3, wait=gives)).run()
    [failed] = result.results
    assert isinstance(failed.failure.error, ConfigurationError)
    assert "slow down" in str(failed.failure.error)
    assert attempts == [1]


# How long ---------------------------------------------------------------------------------------


class Says(Exception):
    """An error with attributes."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("refused")
        self.__dict__.update(attributes)


class Broken(Exception):
    @property
    def retry_after(self) -> float:
        raise RuntimeError("the connection is gone")

    @property
    def response(self) -> Any:
        raise RuntimeError("the connection is gone")


NOW = datetime.now(UTC).replace(microsecond=0)
DATES = {"Date": format_datetime(NOW, usegmt=True), "Retry-After": format_datetime(NOW + timedelta(seconds=90), True)}


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (Says(), None),
        (Says(retry_after=7), 7),
        (Says(retry_after="7.5"), 7.5),
        (Says(retry_after=timedelta(minutes=1)), 60),
        (Says(retry_after=True), None),
        (Says(retry_after=math.nan), None),
        (Says(retry_after=math.inf), None),
        (Says(retry_after=-3), 0),
        (Says(retry_after="later"), None),
        (Says(headers={"retry-after": "3"}), 3),
        (Says(headers={"RETRY-AFTER": "3"}), 3),
        (Says(headers=[(b"Retry-After", b"3")]), 3),
        (Says(headers="nothing"), None),
        (Says(response=SimpleNamespace(headers={"Retry-After": "3", "retry-after-ms": "3500"})), 3.5),
        (Says(response={"headers": {"Retry-After": "3"}}), 3),
        (Says(response=SimpleNamespace(headers=DATES)), 90),
        (Says(headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), 0),
        (Says(headers={"Retry-After": "9" * 400}), None),
        (Broken(), None),
        (BaseExceptionGroup("all", [Says(retry_after=1), Says(retry_after=2)]), 2),
    ],
)
def test_when_a_service_says_to_come_back(error: BaseException, seconds: float | None) -> None:
    assert retry_after(error) == seconds


def test_a_date_is_as_far_from_now_as_it_is() -> None:
    later = datetime.now(UTC) + timedelta(seconds=100)
    for said in (later, format_datetime(later, usegmt=True)):
        seconds = retry_after(Says(retry_after=said))
        assert seconds is not None
        assert 60 < seconds <= 101


def test_the_cause_of_an_error_is_heard_too() -> None:
    with pytest.raises(RuntimeError) as caught:
        try:
            raise RateLimitError(headers={"retry-after": "4"})
        except RateLimitError as error:
            raise RuntimeError("the model could not be asked") from error
    assert retry_after(caught.value) == 4


def test_the_longer_of_the_two_is_waited_for() -> None:
    policy = FailurePolicy.retry(3, "constant", 5.0, max_delay=6.0)
    assert policy.wait_after(0, Says(retry_after=3)) == 5
    assert policy.wait_after(0, Says(retry_after=30)) == 30


async def test_a_wait_that_would_pass_the_deadline_is_not_begun() -> None:
    process, attempts = raising(RateLimitError(headers={"Retry-After": "3600"}))
    async with asyncio.timeout(30):
        result = await PAR(process, on_failure=quick(), deadline=60).run()
    assert isinstance(result.results[0].failure.error, RateLimitError)
    assert attempts == [1]


async def test_a_wait_that_was_asked_for_is_waited() -> None:
    process, attempts = raising(RateLimitError(headers={"retry-after-ms": "300"}))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await PAR(process, on_failure=quick()).run()
    assert loop.time() - began >= 0.29
    assert attempts == [1, 2]


# On the wire ------------------------------------------------------------------------------------


def longer(attempt: int, error: BaseException) -> float:
    return 2.0 * attempt


def travelled(process: Any, functions: tuple[str, ...] = ()) -> Any:
    return wire.loads_process(wire.dumps(process), allowed=None, functions=lambda module: module in functions)


@pytest.mark.parametrize(
    "given", [{}, {"on": (QuotaError, "far.away.Error")}, {"on": "Error", "unless": (ValueError, QuotaError)}]
)
def test_a_policy_travels_with_its_kinds(given: Mapping[str, Any]) -> None:
    policy = FailurePolicy.retry(3, **given)
    assert wire.loads(wire.dumps(policy)) == policy


def test_the_function_of_a_policy_travels_where_functions_may() -> None:
    policy = FailurePolicy.retry(3, wait=longer)
    made = travelled(PAR(give(1), on_failure=policy), (__name__,))
    assert made.parts()["on_failure"].wait is longer
    with pytest.raises(Exception, match="STBASS_FUNCTIONS"):
        travelled(PAR(give(1), on_failure=policy))
    with pytest.raises(Exception, match="inside a value"):
        wire.dumps(policy, processes=False)


def test_kinds_that_are_none_are_refused_by_the_reader() -> None:
    text = wire.dumps(FailurePolicy.retry(3, on="X"))
    with pytest.raises(WireError):
        wire.loads(text.replace(b'"X"', b"1"))


@pytest.mark.parametrize("headers", [{"Retry-After": "12"}, {"retry-after-ms": "12000"}])
def test_an_error_that_has_travelled_still_says_when_to_come_back(headers: dict[str, str]) -> None:
    class Response:
        """As those of HTTP clients, which cannot travel."""

        def __init__(self) -> None:
            self.headers = headers

    error = RateLimitError()
    error.response = Response()  # type: ignore[assignment]
    assert retry_after(wire.loads(wire.dumps(error))) == 12


async def test_what_raises_when_it_is_asked_when_to_try_again_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WallError, "stands", True)
    error = RateLimitError(headers={"Retry-After": "7"})
    error.retry_after = Thorny()  # type: ignore[attr-defined]

    assert retry_after(error) == 7
    error.response = Thorny()  # type: ignore[assignment]
    assert retry_after(error) is None
    for policy in (FailurePolicy.retry(3, base_delay=0), FailurePolicy.retry(3, base_delay=0, on=(WallError,))):
        assert await attempts_of(policy, WallError(), WallError()) == 3


# The deadline of an attempt ----------------------------------------------------------------------


def late_at_first() -> Process[[], int]:
    """A process that comes to its end at its second attempt."""
    attempts = 0

    @Process
    async def late(ctx: ProcessContext) -> int:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await asyncio.sleep(60)
        return attempts

    return late


@pytest.mark.parametrize("outer", [None, 60.0])
@pytest.mark.parametrize("kind", ["PAR", "PLACED_PAR", "in a SEQ", "deeper"])
async def test_each_attempt_at_a_composition_has_its_deadline_anew(kind: str, outer: float | None) -> None:
    late = late_at_first()
    inner: Any = PLACED_PAR(late, deadline=0.2) if kind == "PLACED_PAR" else PAR(late, deadline=0.2)
    if kind == "in a SEQ":
        inner = SEQ(inner)
    if kind == "deeper":
        inner = PAR(PAR(late), deadline=0.2)
    policy = FailurePolicy.retry(3, base_delay=0.01, on=TimeoutError)
    result = await PAR(inner, on_failure=policy, deadline=outer).run()
    assert result.is_ok, result.failures
    assert "[2]" in str(result.value)


async def test_the_deadline_of_a_composition_in_the_code_of_a_process_ends_with_it() -> None:
    @Process
    async def asks(ctx: ProcessContext) -> float | None:
        late = await PAR(late_at_first(), deadline=0.05).execute(ctx)
        assert late.is_fail
        again = await PAR(late_at_first(), deadline=0.05).execute(ctx)
        assert "0.05 s" in again.failure.summary
        return ctx.remaining

    assert (await PAR(asks).run()).value == [None]
    [left] = (await PAR(asks, deadline=60).run()).value
    assert left is not None
    assert left > 30
