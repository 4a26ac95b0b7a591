"""What is left of an HTTP response when an error brings one: enough to see why, and when to try again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stbass._values.texts import attribute_of
from stbass.wire.core import WireWriter

__all__ = ["Headers", "RemoteResponse", "write_response"]


class Headers(dict[str, str]):
    """Headers of a response, found under their names in upper or lower case."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name.lower() if isinstance(name, str) else name)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a header, or ``default``."""
        return super().get(name.lower(), default)


@dataclass(frozen=True)
class RemoteResponse:
    """The response that an error of an HTTP client carries (``error.response``), on the other side of the wire.

    Args:
        status_code: its status.
        reason: the words beside it.
        url: what was asked, secrets masked.
        headers: its headers, secrets masked.
    """

    status_code: int
    reason: str = ""
    url: str = ""
    headers: Headers = field(default_factory=Headers)


def write_response(writer: WireWriter, value: Any) -> Any:
    """In an error, a response or headers of any HTTP client, which cannot travel themselves: as what is above."""
    if not (writer.lenient and writer.masking):
        return NotImplemented
    if isinstance(value, Mapping):
        headers = _headers(value)
        return NotImplemented if headers is None else writer.write(headers)
    status = _asked(value, "status_code", int) or _asked(value, "status", int)
    headers = _headers(_asked(value, "headers", Mapping))
    if status is None or headers is None:
        return NotImplemented
    reason = _asked(value, "reason_phrase", str) or _asked(value, "reason", str) or ""
    return writer.write(RemoteResponse(status, reason, str(_asked(value, "url", object) or ""), headers))


def _asked(value: Any, name: str, kind: type[Any]) -> Any:
    found = attribute_of(value, name)  # httpx's response without a request raises, say
    return found if isinstance(found, kind) else None


def _headers(found: Any) -> Headers | None:
    if found is None:
        return None
    items = [(name, item) for name, item in found.items() if isinstance(name, str) and isinstance(item, str)]
    return Headers({str(name).lower(): str(item) for name, item in items}) if len(items) == len(found) else None
