"""Signatures: without the key nobody can write a message, change one, or use one for something else."""

from __future__ import annotations

import hmac
from typing import Any

from stbass.errors import ConfigurationError, SignatureError

__all__ = ["MIN_KEY_BYTES", "Signer"]

MIN_KEY_BYTES = 16
"""A shorter key could be guessed by trying."""


class Signer:
    """Signs and checks with HMAC-SHA256.

    The parts of what is signed (an id, a queue, a body) are told apart by their lengths, so that moving a character
    from the end of one to the beginning of the next gives another signature.

    Args:
        key: the shared secret, at least :data:`MIN_KEY_BYTES` bytes; a str counts as its UTF-8. No ``repr`` shows it.

    Raises:
        ConfigurationError: the key is too short, or not a str or bytes.
    """

    __slots__ = ("_prepared",)

    def __init__(self, key: str | bytes) -> None:
        if not isinstance(key, (str, bytes)):
            raise ConfigurationError(
                f"the signing key (STBASS_SIGNING_KEY) must be a str or bytes, not a {type(key).__name__}"
            )
        secret = key.encode() if isinstance(key, str) else bytes(key)
        if len(secret) < MIN_KEY_BYTES:
            raise ConfigurationError(
                f"the signing key (STBASS_SIGNING_KEY) has {len(secret)} bytes, it must have at least {MIN_KEY_BYTES};"
                " make one with: python -c 'import secrets; print(secrets.token_hex(32))'"
            )
        # Prepared once, because setting up the key costs as much as signing a short message.
        self._prepared = hmac.new(secret, digestmod="sha256")

    def sign(self, *parts: bytes | str) -> str:
        """The signature of these parts in this order: 64 hexadecimal digits."""
        chunks: list[bytes] = []
        for piece in parts:
            data = piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece
            chunks += (len(data).to_bytes(8, "big"), data)
        made = self._prepared.copy()
        made.update(b"".join(chunks))
        return made.hexdigest()

    def verify(self, signature: object, *parts: bytes | str) -> None:
        """Check that :meth:`sign` gave ``signature`` for these parts with this key, in constant time.

        Raises:
            SignatureError: it did not, or there is no signature.
        """
        if not isinstance(signature, str) or not signature:
            raise SignatureError("the message is not signed, and here only signed ones are accepted")
        # As bytes: compare_digest refuses a str that is not ASCII, and a message may hold anything.
        if not hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), self.sign(*parts).encode()):
            raise SignatureError(
                "the message's signature is wrong: it was altered, sent under another id or to another queue,"
                " or signed with another key (STBASS_SIGNING_KEY)"
            )

    def __repr__(self) -> str:
        return "Signer(…)"

    def __reduce__(self) -> Any:
        raise TypeError("a Signer is not pickled: that would write the key down")
