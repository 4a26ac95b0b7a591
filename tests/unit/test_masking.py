"""Passwords, keys and tokens do not show in texts for people, and in errors that travel; values travel exactly."""

from __future__ import annotations

import contextvars
import io
import json
import logging
import math
from typing import Any

import pydantic
import pytest
from celery import Celery
from rich.console import Console

from stbass import run
from stbass._process.context import ProcessContext
from stbass._values.masking import has_mask, is_secret_name, masked, without_secrets
from stbass._values.texts import error_text, message_of, text_of, traceback_text
from stbass.backends.celery.worker.logs import JsonFormatter, use_log_format
from stbass.errors import WorkflowError
from stbass.observe.display import LinesView
from stbass.observe.events import Event, subscribe
from stbass.process import Process
from stbass.result import Failure, ProcessResult
from stbass.wire import dump_error, dump_result, dumps, load_error, load_result, loads

SECRET = "hunter2-0123"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("api_key=hunter2-0123, x=1", "api_key=***, x=1"),
        ('{"x-api-key": "hunter2-0123", "b": "c"}', '{"x-api-key": "***", "b": "c"}'),
        ('{"token": "a\\"hunter2-0123"}', '{"token": "***"}'),
        ('body \\"password\\": \\"hunter2-0123\\", \\"b\\": 1', 'body \\"password\\": \\"***\\", \\"b\\": 1'),
        ("{'Authorization': 'Bearer hunter2-0123', 'ok': 'yes'}", "{'Authorization': '***', 'ok': 'yes'}"),
        ("Authorization: Bearer hunter2-0123\r\nHost: x", "Authorization: ***\r\nHost: x"),
        ("authorization=Bearer hunter2-0123", "authorization=***"),
        ("proxy-authorization: Basic aHVudGVyMi0wMTIz", "proxy-authorization: ***"),
        ("b'Cookie: a=hunter2-0123; b=c\\r\\nHost: x'", "b'Cookie: ***\\r\\nHost: x'"),
        ("Set-Cookie: sid=hunter2-0123; Path=/\nnext: 1", "Set-Cookie: ***\nnext: 1"),
        ("cookies={'sid': 'hunter2-0123'}, n=1", "cookies=***, n=1"),
        (
            "[('x-api-key', 'hunter2-0123'), (b'cookie', b'hunter2-0123')]",
            "[('x-api-key', '***'), (b'cookie', b'***')]",
        ),
        ("GET https://h/p?access_token=hunter2-0123&b=1", "GET https://h/p?access_token=***&b=1"),
        ("https://h/p?key=hunter2-0123&X-Amz-Signature=hunter2-0123", "https://h/p?key=***&X-Amz-Signature=***"),
        ("redis://user:hunter2-0123@host:6379/0", "redis://user:***@host:6379/0"),
        ("ANTHROPIC_API_KEY=hunter2-0123", "ANTHROPIC_API_KEY=***"),
        ("environ['API_KEY'] = 'hunter2-0123'", "environ['API_KEY'] = '***'"),
        ("accessToken: 'hunter2-0123'", "accessToken: '***'"),
        ("client_secret: hunter2-0123 and more", "client_secret: *** and more"),
        ("--password hunter2-0123 --api-key=hunter2-0123", "--password *** --api-key=***"),
        ("Incorrect API key provided: sk-proj-hunter2-0123.", "Incorrect API key provided: ***."),
        ("sent Bearer hunter2-0123 to it", "sent Bearer *** to it"),
        ("secret='hunter2-0123 cut of", "secret='***"),
        ('    raise E("api_key=" + key)\nE: api_key=hunter2-0123', '    raise E("api_key="***\nE: api_key=***'),
        ('"cookies": [\n  "hunter2-0123"\n], "a": 1', '"cookies": ***, "a": 1'),
        ("Request(headers={'api-key': b'hunter2-0123'})", "Request(headers={'api-key': b'***'})"),
        ("passwd => hunter2-0123", "passwd => ***"),
        ("{'token': {'a': {'b': ['hunter2-0123']}, 'c': ('hunter2-0123',)}, 'd': 'e'}", "{'token': ***, 'd': 'e'}"),
        ('{"password": [[1], ["]hunter2-0123"]], "d": "e"}', '{"password": ***, "d": "e"}'),
        ("token=" + "[" * 9 + "'hunter2-0123'" + "]" * 9 + ", x\nd", "token=***\nd"),
        ("api_key:\n  - hunter2-0123\nz: 1", "api_key:\n  ***\nz: 1"),
        ("<login><password>hunter2-0123</password></login>", "<login><password>***</password></login>"),
        ("redis://user:hunter2/0123@host/0", "redis://user:***@host/0"),
        ("https://hunter2-0123@host/p", "https://***@host/p"),
        (
            "1 validation error for M\ndb.password.0\n  Bad [type=int_type, input_value='hunter2', input_type=str]",
            "1 validation error for M\ndb.password.0\n  Bad [type=int_type, input_value=***, input_type=str]",
        ),
    ],
)
def test_the_value_of_a_secret_name_is_masked_and_nothing_else(text: str, shown: str) -> None:
    assert masked(text) == shown
    # Also when it is masked again, on its way through several texts
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=100, total_tokens: 5, token_type=bearer, token_count: 3",
        "Unexpected token: identifier",
        "KeyError: 'token'",
        "api_key=None, password='', token: null",
        "password=SecretStr('**********')",
        "Headers({'authorization': '[secure]'})",
        "if token == 'x': return authorization",
        "Basic authentication required; the password is wrong",
        "the secretary of cookie makers: nobody",
        "https://example.org/tokens/5?limit=3",
        "https://example.org:443/@somebody/and-more",
        "ssh://git@example.org/a.git and postgres://reader@host/db",
        "1 validation error for M\nname\n  Bad [type=int_type, input_value='x', input_type=str]",
        "",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "Proxy-Authorization",
        "api_key",
        "x-api-key",
        "apiKey",
        "OPENAI_API_KEY",
        "cookie",
        "set-cookie",
        "token",
        "access_token",
        "id-token",
        "password",
        "db.passwd",
        "secret",
        "client_secret",
        "private_key",
    ],
)
def test_names_that_are_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["tokens", "max_tokens", "token_type", "monkey", "key", "author", "cookiecutter", ""])
def test_names_that_are_not(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "text",
    [
        "token " * 5000,
        "'token': '" * 5000,
        "token" + "\\" * 50_000,
        "(" * 50_000 + "token=",
        "token: " + "[{(" * 30_000,
        "token: [" * 10_000,
        "token: {" + "'" * 50_000,
        "-" * 50_000 + "token",
        "a-" * 50_000 + "token",
        "sk-" * 20_000,
        "://a:" * 20_000,
        "a.token." * 20_000,
        "<token " * 20_000,
    ],
    ids=range(13),
)
def test_masking_takes_no_time_to_speak_of(text: str) -> None:
    # (It is the test's time-out that would tell.)
    masked(text)


# Texts -------------------------------------------------------------------------------------------


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_no_text_for_people_shows_a_secret() -> None:
    error = raised(ValueError(f"401 for https://h?api_key={SECRET}"))
    error.add_note(f"password={SECRET}")
    failure = Failure(error, checkpoint={"token": SECRET}, traceback_str=traceback_text(error))
    result = ProcessResult(False, None, failure)

    texts = [
        message_of(error),
        error_text(error),
        traceback_text(error),
        text_of({"headers": {"x-api-key": SECRET}}),
        failure.summary,
        failure.detailed,
        repr(failure),
        repr(result),
        repr(ProcessResult.ok({"token": SECRET})),
    ]

    for text in texts:
        assert SECRET not in text
        assert "***" in text
    assert failure.checkpoint == {"token": SECRET}


# Errors that travel ------------------------------------------------------------------------------


class CallFailed(Exception):
    """As the errors of SDKs are."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.__dict__.update(fields)


def arrived(error: BaseException) -> Any:
    data = dump_error(error)
    assert SECRET.encode() not in data
    return load_error(data)


def test_attributes_that_people_look_at_arrive_and_secrets_in_them_do_not() -> None:
    error: Any = CallFailed(
        f"Authorization: Bearer {SECRET}",
        status_code=401,
        request_id="req_1",
        body={"error": {"message": f"bad key api_key={SECRET}", "api_key": SECRET, "max_tokens": 5}},
        raw=f'{{"token": "{SECRET}"}}'.encode(),
        headers=[("x-api-key", SECRET), ("retry-after", "3")],
        secret_key=pydantic.SecretStr(SECRET),
        options=pydantic.SecretStr(SECRET),
        password=None,
    )
    error.__cause__ = KeyError(f"cookie={SECRET}")
    error.add_note(f"password: {SECRET}")

    found = arrived(raised(error))

    assert type(found).__name__ == "CallFailed"
    assert (found.status_code, found.request_id, found.password) == (401, "req_1", None)
    assert found.body == {"error": {"message": "bad key api_key=***", "api_key": "***", "max_tokens": 5}}
    assert found.raw == b'{"token": "***"}'
    assert found.headers == [("x-api-key", "***"), ("retry-after", "3")]
    assert str(found) == "Authorization: ***"
    assert found.__notes__ == ["password: ***"]
    assert repr(found.__cause__) == "KeyError('cookie=***')"


def test_values_outputs_and_checkpoints_are_never_touched() -> None:
    value = {"token": SECRET, "headers": [("cookie", SECRET)], "text": f"api_key={SECRET}"}
    assert loads(dumps(value)) == value

    failure = load_result(dump_result(ProcessResult.fail(ValueError("x"), checkpoint=value))).failure
    assert failure.checkpoint == value

    # Also not those that an error holds
    error = WorkflowError(
        "lost", failed="a", results={"b": ProcessResult.ok(value), "c": ProcessResult(False, None, failure)}
    )
    found: Any = load_error(dump_error(error))
    assert found.results["b"].value == value
    assert found.results["c"].failure.checkpoint == value


def test_an_error_of_a_class_that_is_not_here_has_the_same_attributes() -> None:
    data = dump_error(CallFailed("nope", status_code=429, body={"token": SECRET}, args_=(1,), type_name="mine"))

    found: Any = load_error(data.replace(b"CallFailed", b"CallRefused"))

    assert type(found).__name__ == "RemoteError"
    assert (found.status_code, found.body, found.args_) == (429, {"token": "***"}, (1,))
    assert found.type_name == f"{__name__}:CallRefused"
    assert json.loads(data)["d"]["status_code"] == 429


def test_what_pydantic_found_under_a_secret_name_is_masked_in_its_error() -> None:
    class Login(pydantic.BaseModel):
        user: int
        password: int
        more: dict[str, dict[str, int]] = {}

    with pytest.raises(pydantic.ValidationError) as caught:
        Login.model_validate({"user": "me", "password": SECRET, "more": {"a": {"token": SECRET}}})
    result = ProcessResult.fail(caught.value)
    arrived = load_error(dump_error(caught.value))

    assert isinstance(arrived, pydantic.ValidationError)
    for text in (result.failure.summary, result.failure.detailed, str(arrived), repr(arrived.errors())):
        assert SECRET not in text
        assert "'me'" in text
    assert [line["loc"] for line in arrived.errors()] == [("user",), ("password",), ("more", "a", "token")]


# Events, logs ------------------------------------------------------------------------------------


def test_the_note_of_an_event_is_masked_and_its_checkpoint_is_not() -> None:
    ctx = ProcessContext("p")
    seen: list[Event] = []

    def run() -> None:
        ctx.progress(1, 2, f"logged in with token={SECRET}")
        ctx.checkpoint({"token": SECRET})

    with subscribe(seen.append):
        contextvars.copy_context().run(run)

    assert seen[0].note == "logged in with token=***"
    assert seen[1].value == {"token": SECRET}
    console = Console(file=io.StringIO(), width=200)
    with LinesView(console) as view:
        for event in seen:
            view.on_event(event)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert SECRET not in said
    assert said.count("***") == 2


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_workers_log_is_masked_also_in_tracebacks(log_format: str) -> None:
    app = Celery(set_as_current=False, stbass_log_format=log_format)
    use_log_format(app)
    stream = io.StringIO()
    logger = logging.Logger("agents")
    app.log.setup_handlers(logger, stream, "%(levelname)s %(message)s", False)

    try:
        raise ValueError("API_KEY=" + SECRET)
    except ValueError:
        logger.exception("asked with %s", {"Authorization": f"Bearer {SECRET}"})

    said = stream.getvalue()
    assert SECRET not in said
    assert "ValueError: API_KEY=***" in said
    assert "'Authorization': '***'" in said


async def test_what_a_process_gives_its_log_as_extra_is_in_the_json(caplog: pytest.LogCaptureFixture) -> None:
    # given a process that logs fields of its own, one of which cannot be shown, and one a secret in a number
    given = {"tokens": 3, "ratio": math.inf, "who": "é\n", "big": 2**80, "bad": _Unshowable(), "api_key": 12, "of": {1}}

    @Process
    async def agent(ctx: ProcessContext) -> None:
        logging.getLogger("agents").warning("asked", extra={**given, "_of_ray": 1, "url": f"redis://:{SECRET}@h"})

    await run(agent)
    # when it is written as JSON
    line = JsonFormatter().format(caplog.records[0])
    # then it has them, apart from its own
    assert SECRET not in line
    made = json.loads(line)
    assert made["message"] == "asked"
    assert made["process"] == "agent"
    bad = made["extra"].pop("bad")
    assert "repr raised" in bad
    assert made["extra"] == {
        "tokens": 3,
        "ratio": None,
        "who": "é\n",
        "big": str(2**80),
        "api_key": "***",
        "of": "{1}",
        "url": "redis://:***@h",
    }
    # and what Celery gives its own records is not shown: those of no process
    outside = logging.makeLogRecord({"msg": "received", "data": {"args": "(1,)"}})
    assert "extra" not in json.loads(JsonFormatter().format(outside))


class _Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def test_the_log_of_a_process_is_masked_wherever_it_is_written(caplog: pytest.LogCaptureFixture) -> None:
    ctx = ProcessContext("p")
    try:
        raise ValueError("API_KEY=" + SECRET)
    except ValueError:
        ctx.log.exception("asked %s with %s", "it", {"deep": [{"x-api-key": SECRET}]})
    ctx.log.warning("plain %s", 5)

    first, second = caplog.records
    said = logging.Formatter().format(first)
    assert SECRET not in said
    assert "asked it with {'deep': [{'x-api-key': '***'}]}" in said
    assert "ValueError: API_KEY=***" in said
    assert (second.msg, second.args) == ("plain %s", (5,))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("postgresql://u:hunter2@h/d", "postgresql://u:***@h/d"),
        ("postgresql+psycopg://u@h/d?password=hunter2&sslmode=require", None),
        ("redis://:hunter2@h:6379/0", "redis://:***@h:6379/0"),
        ("host=h password='hunter2 and more' user=u", "host=h password=*** user=u"),
        ("Driver={x};UID=u;PWD={hunter2;};Server=s", "Driver={x};UID=u;PWD=***;Server=s"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Du%3BPWD%3Dhunter2%3BServer%3Ds", None),
        ({"connect_args": {"password": "hunter2", "host": "h"}}, {"connect_args": {"password": "***", "host": "h"}}),
        ({"api_key": "hunter2", "deep": [{"urls": ("amqp://a:hunter2@b",)}]}, None),
    ],
)
def test_passwords_in_data_are_masked_and_known_to_be(given: Any, kept: Any) -> None:
    found = without_secrets("args", given)
    assert "hunter2" not in repr(found)
    assert "***" in repr(found)
    assert has_mask(found)
    if kept is not None:
        assert found == kept


@pytest.mark.parametrize(
    "given",
    [
        "select * from users where password = 'x'",
        {"token": "the", "tokens": 5, "path": "a=b", "query": "select 1", "text": "Password: none"},
        "http://h/p?q=1",
        {"password": None, "api_key": ""},
        [1, 2.5, None, b"bytes", ("a", "b")],
        "***bold***",
    ],
)
def test_other_data_stay_as_they_are(given: Any) -> None:
    assert without_secrets("args", given) == given
    assert not has_mask(given)


@pytest.mark.parametrize("text", [error_text, message_of, text_of, traceback_text])
@pytest.mark.parametrize(
    "secret",
    ["", f"{'x' * 499_000} password=", "token: '", "Authorization: Bearer "],
    ids=["none", "where it is cut", "quoted", "header"],
)
def test_of_a_text_of_megabytes_only_the_beginning_is_looked_through_and_shown(text: Any, secret: str) -> None:
    shown = text(ValueError(f"said {secret}{'hunter2' * 300_000}"))
    assert shown.rstrip("'\")\n ").endswith("characters left out")
    assert ("hunter2" in shown) is not bool(secret)
