"""Exceptions as values: same class, same arguments, and all that hangs on them; never lost, never raised."""

from __future__ import annotations

import asyncio
import builtins
import json
import subprocess
import threading
import traceback
from typing import Any

import pytest

from stbass import errors
from stbass.errors import (
    ChannelTypeError,
    DeadlineExceeded,
    NotTransportable,
    ProcessRefused,
    RemoteError,
    StbassError,
    WireError,
)
from stbass.result import ProcessResult
from stbass.wire import REMOTE_TRACEBACK, Opaque, dump_error, dump_result, dumps, load_error, load_result, loads
from tests.support import wire_samples as samples
from tests.support.wire_samples import (
    DataError,
    FileGone,
    ManyErrors,
    MuteError,
    NewError,
    OddError,
    Point,
    SlottedError,
    WallError,
)


def raised(error: BaseException) -> Any:
    """The error, with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def arrived(error: BaseException) -> Any:
    data = dump_error(error)
    samples.ran.clear()
    found = load_error(data)
    assert samples.ran == []
    return found


def made(cls: type[BaseException]) -> BaseException:
    if cls is ExceptionGroup:
        return ExceptionGroup("several", [ValueError("one")])
    if cls is BaseExceptionGroup:
        return BaseExceptionGroup("several", [KeyboardInterrupt()])
    if issubclass(cls, SyntaxError):
        return cls("bad", ("f.py", 3, 1, "x = "))
    if cls is UnicodeDecodeError:
        return UnicodeDecodeError("utf-8", b"ab\xff", 2, 3, "invalid")
    if cls is UnicodeEncodeError:
        return UnicodeEncodeError("ascii", "aé", 1, 2, "no")
    if cls is UnicodeTranslateError:
        return UnicodeTranslateError("aé", 1, 2, "no")
    return cls("text", 2)


BUILT_IN = [cls for cls in vars(builtins).values() if isinstance(cls, type) and issubclass(cls, BaseException)]


@pytest.mark.parametrize("cls", BUILT_IN, ids=lambda cls: cls.__name__)
def test_every_built_in_exception_arrives(cls: type[BaseException]) -> None:
    error = made(cls)

    found = arrived(raised(error))

    assert type(found) is cls
    assert str(found) == str(error)
    assert repr(found) == repr(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(2, "No such file", "a.txt", None, "b.txt"),
        FileNotFoundError(2, "No such file", "a.txt"),
        BlockingIOError(11, "again", 5),
        ConnectionResetError("plain"),
        OSError(),
        KeyError(("a", 1)),
        StopIteration({"value": (1,)}),
        SystemExit(3),
        KeyboardInterrupt(),
        asyncio.CancelledError("why"),
        asyncio.IncompleteReadError(b"ab", 5),
        SyntaxError("bad", ("f.py", 3, 1, "x = ", 3, 4)),
        ImportError("no", name="os", path="/x"),
        NameError("x", name="x"),
        UnicodeDecodeError("utf-8", b"", 0, 1, "empty"),
        json.JSONDecodeError("bad", "[1,", 3),
        subprocess.CalledProcessError(3, ["ls"], b"out", None),
        subprocess.TimeoutExpired("ls", 2.5),
        ValueError(),
        ValueError(1, (2, [3]), {"k": {4}}),
        Exception("lone \ud800 surrogate"),
    ],
    ids=lambda error: ascii(error)[:40],
)
def test_what_a_built_in_exception_keeps_arrives(error: BaseException) -> None:
    found = arrived(error)

    assert type(found) is type(error)
    assert repr(found) == repr(error)
    assert str(found) == str(error)
    assert found.args == error.args
    for name in (
        "errno", "strerror", "filename", "filename2", "characters_written", "value", "code", "name", "path", "msg",
        "lineno", "offset", "text", "end_lineno", "end_offset", "encoding", "object", "start", "end", "reason", "doc",
        "pos", "colno", "returncode", "cmd", "output", "stderr", "timeout", "partial", "expected",
    ):  # fmt: skip
        assert getattr(found, name, "absent") == getattr(error, name, "absent"), name


def test_exceptions_that_end_programs_are_only_values() -> None:
    values = [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()]

    found = loads(dumps(values))

    assert [type(error) for error in found] == [type(error) for error in values]


@pytest.mark.parametrize(
    "error",
    [
        OddError(3, reason="odd"),
        NewError("a", 1),
        SlottedError([1], "text"),
        DataError(4, "here"),
        FileGone(2, "gone", "x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_with_a_constructor_of_its_own_arrives_without_it_being_run(error: Any) -> None:
    found = arrived(error)

    assert type(found) is type(error)
    assert repr(found) == repr(error)
    assert str(found) == str(error)
    assert found.args == error.args
    assert found.__dict__ == error.__dict__
    for name in ("detail", "message", "errno", "filename"):
        assert getattr(found, name, None) == getattr(error, name, None)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_of_ours_arrives_with_its_fields(name: str) -> None:
    cls = getattr(errors, name)
    error = cls("what happened", channel_name="c", deadline=1.5, expected=Point(1), note=None)

    found = arrived(error)

    assert type(found) is cls
    assert str(found) == "what happened"
    assert found.__dict__ == error.__dict__
    assert str(arrived(cls())) == str(cls())


def test_fields_arrive_as_what_they_are() -> None:
    refused = arrived(ProcessRefused("no", reference="a:b", queue="q", worker=None))
    late: Any = arrived(DeadlineExceeded("late", deadline=2.0, phase="queued"))
    mismatch = arrived(ChannelTypeError("no", expected=int, actual="x"))

    assert (refused.reference, refused.queue, refused.worker) == ("a:b", "q", None)
    assert issubclass(type(late), TimeoutError)
    assert (late.deadline, late.phase) == (2.0, "queued")
    assert mismatch.expected == Opaque("builtins:type", "<class 'int'>")


# What hangs on them ------------------------------------------------------------------------------


def test_notes_cause_and_context_arrive() -> None:
    def fail() -> None:
        try:
            try:
                raise KeyError("first")
            except KeyError as first:
                raise OddError(1, reason="second") from first
        except OddError:
            raise ValueError("third")  # noqa: B904 - the context is what is tested

    with pytest.raises(ValueError, match="third") as caught:
        fail()
    caught.value.add_note("a note")

    found = arrived(caught.value)

    assert found.__notes__ == ["a note"]
    assert found.__cause__ is None
    assert not found.__suppress_context__
    assert repr(found.__context__) == "OddError('1: second')"
    assert found.__context__.__suppress_context__
    assert repr(found.__context__.__cause__) == "KeyError('first')"


def test_a_suppressed_context_stays_behind() -> None:
    try:
        try:
            raise KeyError("secret")
        except KeyError:
            raise ValueError("told") from None
    except ValueError as error:
        found = arrived(error)

    assert found.__suppress_context__
    assert found.__context__ is None


def test_the_remote_traceback_comes_along_and_stays_over_a_second_trip() -> None:
    def at_a_place_to_remember() -> None:
        raise ValueError("here")

    try:
        at_a_place_to_remember()
    except ValueError as error:
        found = arrived(error)

    text = getattr(found, REMOTE_TRACEBACK)
    assert "at_a_place_to_remember" in text
    assert text.endswith("ValueError: here\n")
    assert found.__traceback__ is None
    again = arrived(raised(found))
    assert getattr(again, REMOTE_TRACEBACK) == text
    # The text is beside the error, and does not show in how it prints itself.
    assert "at_a_place" not in "".join(traceback.format_exception(again))


def test_an_error_that_was_never_raised_has_no_traceback() -> None:
    assert not hasattr(arrived(ValueError()), REMOTE_TRACEBACK)


def test_a_very_long_traceback_is_shortened_in_the_middle() -> None:
    found = arrived(raised(ValueError("x" * 200_000)))

    text = getattr(found, REMOTE_TRACEBACK)
    assert len(text) < 60_000
    assert "characters left out" in text
    assert str(found) == "x" * 200_000


def test_arguments_and_attributes_that_cannot_travel_become_their_text() -> None:
    lock = threading.Lock()
    error = ValueError("a", [1, lock], {"k": lock, lock: 2})
    error.add_note("kept")
    vars(error).update(held=lock, number=(1,), holder=Point(lock, 2))

    found = arrived(error)

    text = Opaque("_thread:lock", repr(lock))
    assert found.args == ("a", [1, text], {"k": text, text: 2})
    assert found.held == text
    assert found.number == (1,)
    assert found.holder == Point(text, 2)
    assert found.__notes__ == ["kept"]


def test_an_error_that_raises_whatever_it_is_asked_for_arrives_beside_its_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(WallError, "stands", True)
    failure = load_result(dump_result(ProcessResult.fail(WallError("a", 1), checkpoint={"step": 3}))).failure

    assert type(failure.error) is WallError
    assert vars(BaseException)["args"].__get__(failure.error) == ("a", 1)
    assert failure.checkpoint == {"step": 3}


def test_what_lacked_an_attribute_stays_behind() -> None:
    try:
        Point(1).z  # type: ignore[attr-defined]  # noqa: B018
    except AttributeError as error:
        found = arrived(error)

    assert found.name == "z"
    assert found.obj is None


def test_an_error_that_cannot_speak_arrives() -> None:
    found = arrived(raised(MuteError(MuteError())))

    assert type(found) is MuteError
    assert type(found.args[0]) is MuteError


# Groups ------------------------------------------------------------------------------------------


def test_a_tree_of_groups_arrives() -> None:
    group = ExceptionGroup(
        "outer",
        [ValueError(1), ExceptionGroup("inner", (KeyError("k"), OddError(2, reason="r")))],
    )

    found = arrived(raised(group))

    assert repr(found) == repr(group)
    assert str(found) == "outer (2 sub-exceptions)"
    assert [type(member) for member in found.exceptions] == [ValueError, ExceptionGroup]
    assert found.exceptions[1].exceptions[1].reason == "r"
    matched, _ = found.split(KeyError)
    assert repr(matched.exceptions[0].exceptions[0]) == "KeyError('k')"


def test_a_group_of_the_users_own_class_arrives_without_its_constructors() -> None:
    group = ManyErrors("several", [ValueError(1)], 7)

    found = arrived(group)

    assert type(found) is ManyErrors
    assert found.code == 7
    assert found.args == group.args or repr(found.args) == repr(group.args)
    assert (found.message, len(found.exceptions)) == ("several", 1)


def test_a_group_of_what_ends_programs_arrives() -> None:
    found = arrived(BaseExceptionGroup("end", [KeyboardInterrupt(), ValueError()]))

    assert type(found) is BaseExceptionGroup
    assert [type(member) for member in found.exceptions] == [KeyboardInterrupt, ValueError]


def test_a_group_that_its_own_member_refers_to_arrives_without_that_reference() -> None:
    member = ValueError("member")
    group = ExceptionGroup("group", [member])
    member.__context__ = group
    member.args = ("member", group)

    found = arrived(group)

    (inside,) = found.exceptions
    assert inside.args[0] == "member"
    assert isinstance(inside.args[1], Opaque)
    assert inside.__context__ is None


# Circles and crowds ------------------------------------------------------------------------------


def test_circles_of_exceptions_arrive_as_circles() -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__context__ = second, first
    first.args = ("first", first, [second])

    found = arrived(first)

    assert found.__cause__.__context__ is found
    assert found.args[1] is found
    assert found.args[2][0] is found.__cause__


def test_one_exception_in_two_places_is_still_one() -> None:
    error = ValueError("shared")

    found = loads(dumps({"a": error, "b": [error], "c": ExceptionGroup("g", [error])}))

    assert found["a"] is found["b"][0]
    assert found["c"].exceptions[0] is found["a"]


def test_a_chain_in_which_each_holds_the_one_before_twice_stays_small() -> None:
    error: Exception = ValueError("root")
    for number in range(40):
        try:
            raise RuntimeError(number, error) from error
        except RuntimeError as caught:
            error = caught

    data = dump_error(error)

    assert len(data) < 100_000
    found: Any = load_error(data)
    for _ in range(40):
        assert found.args[1] is found.__cause__
        found = found.__cause__
    assert repr(found) == "ValueError('root')"


def test_a_chain_longer_than_anybody_reads_is_cut_and_the_error_arrives() -> None:
    error = ValueError(0)
    for number in range(1, 2000):
        newer = ValueError(number)
        newer.__context__ = error
        error = newer

    found: Any = arrived(error)

    assert found.args == (1999,)
    length = 0
    while found.__context__ is not None:
        found = found.__context__
        length += 1
    assert length == 50


def test_nested_groups_deeper_than_a_message_may_be_arrive_cut() -> None:
    error: Exception = ValueError("core")
    for _ in range(300):
        error = ExceptionGroup("level", [error])

    found = arrived(error)

    assert type(found) is ExceptionGroup
    assert found.message == "level"


# Classes that are not here -----------------------------------------------------------------------


def test_an_exception_of_a_class_that_is_not_here_becomes_a_remote_error() -> None:
    class Local(OSError):
        pass

    error = raised(Local(5, "disk", Point(1)))
    error.add_note("look here")
    error.__cause__ = KeyError("why")

    found = arrived(error)

    assert type(found) is RemoteError
    name = f"{__name__}:test_an_exception_of_a_class_that_is_not_here_becomes_a_remote_error.<locals>.Local"
    assert found.type_name == name
    assert found.remote_args[:2] == ("5", "'disk'")
    assert str(found) == f"{name.replace(':', '.')}: {error}"
    assert found.__notes__ == ["look here"]
    assert repr(found.__cause__) == "KeyError('why')"
    assert "disk" in getattr(found, REMOTE_TRACEBACK)
    # And it travels on as that.
    again = arrived(found)
    assert (type(again), again.type_name, again.remote_args) == (RemoteError, found.type_name, found.remote_args)
    assert str(again) == str(found)


def test_a_group_of_a_class_that_is_not_here_is_still_a_group() -> None:
    class LocalGroup(ExceptionGroup[Exception]):
        pass

    found: Any = arrived(LocalGroup("several", [ValueError(1), KeyError(2)]))

    assert type(found) is ExceptionGroup
    assert [repr(member) for member in found.exceptions] == ["ValueError(1)", "KeyError(2)"]
    assert vars(found)["type_name"].endswith("LocalGroup")


def test_a_name_that_is_a_class_but_no_exception_becomes_a_remote_error() -> None:
    samples.ran.clear()
    found = loads('{"~":"error","c":"tests.support.wire_samples:Spy","m":"x","a":[]}')

    assert type(found) is RemoteError
    assert samples.ran == []


# Malformed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"a": None},
        {"a": {"x": 1}},
        {"m": 5},
        {"c": None},
        {"g": []},
        {"g": [1]},
        {"g": ["x"]},
        {"d": [1]},
        {"d": {"~": "dict", "v": [1, 2]}},
        {"n": {"__dict__": 1}},
        {"n": {"args": []}},
        {"n": {"with_traceback": 1}},
        {"n": {"errno": 1}},
        {"cause": {"x": 1}},
        {"cause": 3},
        {"context": {"~": "tuple", "v": []}},
        {"cause": {"~": "again", "i": 9}},
        {"t": 5},
        {"i": "x"},
    ],
    ids=str,
)
def test_a_malformed_exception_is_refused(change: dict[str, Any]) -> None:
    form = {"~": "error", "c": "builtins:ValueError", "m": "m", "a": ["m"]}
    assert repr(loads(json.dumps(form))) == "ValueError('m')"

    with pytest.raises(WireError):
        loads(json.dumps(form | change))


@pytest.mark.parametrize(
    "parts",
    [
        {"object": {"~": "bytes", "v": "YWI="}, "start": -(2**62), "end": -(2**62) + 1, "encoding": "a", "reason": "b"},
        {"object": "text", "start": 0, "end": 1, "encoding": "a", "reason": "b"},
        {"object": 5, "start": 0, "end": 1, "encoding": "a", "reason": "b"},
        {"object": {"~": "bytes", "v": "YWI="}, "start": 0, "end": 1, "encoding": 5, "reason": "b"},
        {"object": {"~": "bytes", "v": "YWI="}, "start": True, "end": 1, "encoding": "a", "reason": "b"},
        {
            "object": {"~": "bytes", "v": "YWI="},
            "start": 0,
            "end": 1,
            "encoding": "a",
            "reason": {"~": "again", "i": 1},
        },
        [],
    ],
)
def test_a_unicode_error_that_would_read_outside_its_text_is_not_made(parts: Any) -> None:
    form = {"~": "error", "c": "builtins:UnicodeDecodeError", "m": "m", "a": [], "n": parts, "i": 1}

    try:
        found = loads(json.dumps(form))
    except WireError:
        return
    assert type(found) is RemoteError
    assert "UnicodeDecodeError" in str(found)


def test_only_an_exception_is_an_error() -> None:
    with pytest.raises(WireError, match="it is 5"):
        load_error(b"5")


def test_an_error_larger_than_the_limit_is_refused() -> None:
    with pytest.raises(NotTransportable, match="STBASS_MAX_MESSAGE_BYTES"):
        dump_error(ValueError("x" * 2000), limit=1000)


def test_the_root_of_our_errors_is_what_a_handler_catches() -> None:
    with pytest.raises(StbassError, match="lost"):
        raise arrived(errors.WorkerLostError("lost", worker="w"))
