"""A fleet whose parts are not all of one version: what a later one adds is no forgery, and is ignored."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from stbass._process.context import ProcessContext
from stbass.backends.celery import envelope
from stbass.backends.celery.envelope import Envelope, Meta, Ran, is_failure, open_result, read_meta, seal_result
from stbass.backends.celery.settings import FleetSettings
from stbass.errors import SignatureError
from stbass.result import ProcessResult, RunInfo
from stbass.transports.redis.address import RedisAddress
from stbass.wire import Signer

KEY = "correct horse battery staple"
LATER = msgspec.defstruct(
    "LaterRan",
    [
        *[
            (one.name, one.type, msgspec.field(default_factory=list) if one.name == "inside" else one.default)
            for one in msgspec.structs.fields(Ran)
            if one.name != "sig"
        ],
        ("host", dict[str, Any] | None, None),
        ("sig", str | None, None),
    ],
    omit_defaults=True,
    namespace={"__post_init__": lambda self: setattr(self, "host", {"rack": 7, "sig": "é"})},
)
"""Has a field that this version does not know."""


def settings_with(key: str | None) -> FleetSettings:
    signer = None if key is None else Signer(key)
    return FleetSettings(RedisAddress.parse("redis://localhost", "url"), None, signer=signer)


def sealed(settings: FleetSettings, *, fails: bool = False, bare: bool = False) -> bytes:
    ctx = ProcessContext("p", process_id="id")
    if fails:
        return seal_result("id", ProcessResult.fail(ValueError("no"), process_name="p"), settings, ctx)
    run = None if bare else RunInfo("p", "id", worker="w", attempt=2)
    return seal_result("id", ProcessResult(True, [1], None, None if bare else timedelta(1), run), settings, ctx)


def opened(raw: bytes, settings: FleetSettings) -> ProcessResult[Any]:
    return open_result(read_meta(raw), Envelope("id", "queue", "p", 10.0), settings)


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("kind", [{}, {"bare": True}, {"fails": True}], ids=["ok", "bare", "fails"])
def test_what_a_later_worker_says_of_a_result_is_ignored(
    monkeypatch: pytest.MonkeyPatch, key: str | None, later: bool, kind: dict[str, bool]
) -> None:
    # given a worker that may be of a later version
    settings = settings_with(key)
    with monkeypatch.context() as patch:
        if later:
            patch.setattr(envelope, "Ran", LATER)
        raw = sealed(settings, **kind)
    assert (b'"host"' in raw) is later
    # then its result is what it is
    result = opened(raw, settings)
    if kind.get("fails"):
        assert isinstance(result.failure.error, ValueError)
        assert is_failure(raw, "id", settings)
    else:
        assert result.value == [1]
        assert result.run is not None
        assert result.run.attempt == (1 if kind else 2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"rack":7', b'"rack":8'),
        (b'"attempt":2', b'"attempt":3'),
        (b'"host":', b'"hose":'),
        ('"sig":"é"'.encode(), b'"sig":"e"'),
        (b'"worker":"w"', b'"worker":"w","worker":"v"'),
        (b'"result":[1]', b'"result":[2]'),
        (b'"stbass":{', b'"stbass":{ '),
        (b'"stbass":{', b'"stbass":{"elapsed":1.0,'),
        (b'"sig":', b'"sig": '),
        (b'"}}', b'","sig":"x"}}'),
        (b'"}}', b'","attempt":9}}'),
    ],
)
def test_a_part_that_this_version_does_not_know_is_signed_too(
    monkeypatch: pytest.MonkeyPatch, old: bytes, new: bytes
) -> None:
    settings = settings_with(KEY)
    monkeypatch.setattr(envelope, "Ran", LATER)
    raw = sealed(settings)
    assert old in raw
    forged = raw.replace(old, new)
    result = opened(forged, settings)
    assert result.is_fail
    assert isinstance(result.failure.error, SignatureError)


def test_results_of_this_version_are_signed_as_they_always_were() -> None:
    # An earlier version signs what it has written without the signature, and checks what it would write itself.
    settings = settings_with(KEY)
    meta = msgspec.json.decode(sealed(settings), type=Meta)
    ran = msgspec.json.decode(meta.stbass, type=Ran)
    signature, ran.sig = ran.sig, None
    assert settings.signer is not None
    settings.signer.verify(signature, "result", "id", "SUCCESS", bytes(meta.result), msgspec.json.encode(ran))


def test_a_failure_that_was_stored_by_somebody_who_did_not_know_the_name_has_it() -> None:
    # given a result of a process whose worker was lost, stored by whoever found that out
    settings = settings_with(None)
    raw = seal_result("id", ProcessResult.fail(ValueError("lost")), settings, ProcessContext("unknown"))
    # when somebody reads it who knows which process that was, then it has its name
    assert opened(raw, settings).failure.summary == "[p] ValueError: lost"
