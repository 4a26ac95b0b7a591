"""What stands in the lists of a channel: values, as they travel.

An element is ``<number><kind><signature><JSON>``, or ``<number>b<count>;<signature><JSON>`` with as many values, one
per line, if they were accepted by a channel with a capacity. The signature is there if the fleet signs; it covers all
else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from stbass import wire
from stbass.errors import WireError
from stbass.wire import Signer

__all__ = ["Codec", "Entry", "parse_entry"]

_ENTRY = re.compile(rb"(\d{1,15})(?:([sng])|b(\d{1,6});)(.*)", re.DOTALL)
_BATCH_BYTES = 64 * 1024
"""How large an element with many values may get; one value may be larger."""
_BATCH_VALUES = 10_000


class Entry(NamedTuple):
    """An element that may be one of ours: number of its first value, kind, how many values, the rest."""

    number: int
    kind: bytes
    values: int
    payload: bytes


def parse_entry(raw: bytes) -> Entry | None:
    """An element taken apart; None if it is none of ours."""
    found = _ENTRY.fullmatch(raw)
    if found is None:
        return None
    number, kind, count, payload = found.groups()
    if kind is not None:
        return Entry(int(number), kind, 1, payload)
    return Entry(int(number), b"b", int(count), payload)


class Codec:
    """Writes and reads the elements of one channel.

    Args:
        name: of the channel, for messages.
        channel_id: what signatures are bound to.
        signer: None if nothing is signed.
        limit: how large a value may be, in bytes.
    """

    __slots__ = ("_id", "_limit", "_signer", "_what")

    def __init__(self, name: str, channel_id: str, signer: Signer | None, limit: int) -> None:
        self._id = channel_id
        self._signer = signer
        self._limit = limit
        self._what = f"value for channel {name!r}"

    def encode(self, value: Any) -> bytes:
        """A value as it travels: JSON in one line.

        Raises:
            NotTransportable: it cannot, or is too large.
        """
        return wire.dumps(value, limit=self._limit, what=self._what)

    def entry(self, number: int, kind: bytes, payload: bytes) -> bytes:
        """An element with one value."""
        return self._signed(b"%d%b" % (number, kind), payload)

    def batches(self, number: int, payloads: Sequence[bytes]) -> Iterator[bytes]:
        """Elements with values that were accepted; the first has this number."""
        start = size = 0
        for index, payload in enumerate(payloads):
            size += len(payload) + 1
            if index > start and (size > _BATCH_BYTES or index - start == _BATCH_VALUES):
                yield self._batch(number + start, payloads[start:index])
                start, size = index, len(payload) + 1
        yield self._batch(number + start, payloads[start:])

    def _batch(self, number: int, payloads: Sequence[bytes]) -> bytes:
        return self._signed(b"%db%d;" % (number, len(payloads)), b"\n".join(payloads))

    def _signed(self, head: bytes, payload: bytes) -> bytes:
        if self._signer is None:
            return head + payload
        return head + self._signer.sign("value", self._id, head, payload).encode() + payload

    def decode(self, entry: Entry) -> list[Any]:
        """The values of an element.

        Raises:
            WireError: it is none that this class wrote.
            SignatureError: it is not signed as it should be.
        """
        number, kind, count, payload = entry
        if self._signer is not None:
            head = b"%d%b" % (number, kind) if kind != b"b" else b"%db%d;" % (number, count)
            signature, payload = payload[:64], payload[64:]
            self._signer.verify(signature.decode("latin-1"), "value", self._id, head, payload)
        if count == 1:
            return [wire.loads(payload, limit=self._limit)]
        if len(payload) > _BATCH_BYTES:
            raise WireError(f"{len(payload)} bytes, more than were ever written together")
        values = self._decode_many(payload)
        if len(values) != count:
            raise WireError(f"it says that it has {count} values, and has {len(values)}")
        return values

    def _decode_many(self, payload: bytes) -> list[Any]:
        try:
            found = wire.loads(b"[" + payload.replace(b"\n", b",") + b"]", limit=_BATCH_BYTES + 2)
        except WireError:
            # One that is nested as deeply as a value may be, or none of ours.
            found = [wire.loads(line, limit=self._limit) for line in payload.split(b"\n")]
        values: list[Any] = found
        return values
