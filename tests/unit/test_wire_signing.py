"""Signatures: what was signed verifies, and nothing else does."""

from __future__ import annotations

import copy
import hashlib
import hmac
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbass.errors import ConfigurationError, NotTransportable, SignatureError
from stbass.wire import MIN_KEY_BYTES, Signer, dumps

KEY = "correct horse battery staple"

pieces = st.lists(st.binary(max_size=10) | st.text(max_size=10), max_size=5)


def as_bytes(parts: list[bytes | str]) -> list[bytes]:
    return [part if isinstance(part, bytes) else part.encode() for part in parts]


@given(pieces, pieces)
def test_a_signature_fits_the_parts_it_was_made_for_and_no_others(
    signed: list[bytes | str], other: list[bytes | str]
) -> None:
    signer = Signer(KEY)
    signature = signer.sign(*signed)

    signer.verify(signature, *signed)

    if as_bytes(signed) != as_bytes(other):
        with pytest.raises(SignatureError):
            signer.verify(signature, *other)


def test_it_is_hmac_sha256_over_the_length_prefixed_parts() -> None:
    text = b"".join(len(part).to_bytes(8, "big") + part for part in (b"id", b"queue", b"body"))

    assert Signer(KEY).sign("id", b"queue", "body") == hmac.new(KEY.encode(), text, hashlib.sha256).hexdigest()


def test_text_and_its_utf_8_are_the_same_part_and_a_str_key_is_its_utf_8() -> None:
    assert Signer("kéy of sixteen bytes").sign("é") == Signer("kéy of sixteen bytes".encode()).sign("é".encode())


def test_moving_a_character_from_one_part_to_the_next_is_noticed() -> None:
    signer = Signer(KEY)

    with pytest.raises(SignatureError, match="altered"):
        signer.verify(signer.sign("id", "queue"), "idq", "ueue")


def test_another_key_is_noticed() -> None:
    with pytest.raises(SignatureError, match="STBASS_SIGNING_KEY"):
        Signer(KEY).verify(Signer(KEY + "!").sign("x"), "x")


@pytest.mark.parametrize("signature", [None, "", b"ab", 5, [], "é" * 64, "\ud800", "0" * 64, "0" * 63])
def test_whatever_stands_in_the_place_of_a_signature_is_refused(signature: object) -> None:
    with pytest.raises(SignatureError):
        Signer(KEY).verify(signature, "x")


def test_an_unsigned_message_is_told_apart() -> None:
    with pytest.raises(SignatureError, match="not signed"):
        Signer(KEY).verify(None, "x")


@pytest.mark.parametrize("key", ["", "short", "x" * (MIN_KEY_BYTES - 1), b"x" * (MIN_KEY_BYTES - 1)])
def test_a_key_that_is_too_short_is_refused_without_being_shown(key: str | bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"STBASS_SIGNING_KEY.*at least 16.*make one with") as caught:
        Signer(key)

    if key:
        assert str(key) not in str(caught.value)


def test_a_key_is_text_or_bytes() -> None:
    with pytest.raises(ConfigurationError, match="not a int"):
        Signer(12345678901234567890)  # type: ignore[arg-type]


def test_the_key_shows_nowhere() -> None:
    signer = Signer(KEY)

    assert KEY not in repr(signer) + str(signer) + f"{signer!r}{[signer]}"
    assert not hasattr(signer, "__dict__")
    for write in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="not pickled"):
            write(signer)
    with pytest.raises(NotTransportable) as caught:
        dumps([signer])
    assert KEY not in str(caught.value)
