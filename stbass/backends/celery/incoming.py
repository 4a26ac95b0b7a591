"""What a message must be so that nothing behind this can raise for what is in it: its headers and properties."""

from __future__ import annotations

import json
from binascii import a2b_base64
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from kombu.exceptions import DecodeError
from kombu.serialization import TRUSTED_CONTENT

from stbass.errors import WireError

__all__ = ["EMPTY_BODY", "CheckedBody", "check_headers", "checked_message"]

EMPTY_BODY = '[[],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'
"""The body of a task without arguments and callbacks, as every process is sent."""
_JSON = "application/json"
_NOT_PARTS = "its body is not a list of a list of arguments, a mapping of arguments and a mapping"
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
_Text = Annotated[str, msgspec.Meta(max_length=100_000)]
_Moment = Annotated[str, msgspec.Meta(min_length=1, max_length=1000, pattern="^(?!000|999)")]
"""A date and time. Celery refuses itself what is none; in the first and the last years no time zone can be applied."""


class _Task(msgspec.Struct):
    """What a message says of its task in either protocol of Celery, as far as Celery looks at it unchecked."""

    task: _Name
    id: _Name
    eta: _Moment | None = None
    expires: _Moment | None = None
    retries: int | None = None
    timelimit: tuple[float | None, float | None] | None = None
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None


class _TaskHeaders(_Task):
    """Headers of a message of Celery's protocol 2, as far as Celery and stbass look at them."""

    root_id: _Name | None = None
    parent_id: _Name | None = None
    group: _Name | None = None
    shadow: _Text | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    origin: _Text | None = None
    ignore_result: bool | None = None
    replaced_task_nesting: int | None = None
    stbass: str | None = None
    stbass_signature: _Name | None = None


class _DeliveryInfo(msgspec.Struct):
    exchange: Annotated[str, msgspec.Meta(max_length=1000)] | None = None
    routing_key: Annotated[str, msgspec.Meta(max_length=1000)] | None = None
    priority: int | None = None
    redelivered: bool | None = None


class _Properties(msgspec.Struct):
    delivery_tag: _Name
    delivery_info: _DeliveryInfo
    correlation_id: _Name | None = None
    reply_to: str | None = None
    priority: int | None = None
    body_encoding: Literal["base64", "utf-8"] | None = None


class _Message(msgspec.Struct, rename={"content_type": "content-type", "content_encoding": "content-encoding"}):
    properties: _Properties
    body: str | None = None
    headers: dict[str, Any] | None = None
    content_type: _Name | None = None
    content_encoding: _Name | None = None


def checked_message(payload: Any) -> Any:
    """The message of a Redis list as it is, if each of its parts is what it must be.

    Raises:
        WireError: a part is missing, of another type, or longer than any such thing can be; the error says which.
    """
    try:
        message = msgspec.convert(payload, _Message)
        body: str | bytes | None = message.body
        if message.body is not None and message.properties.body_encoding == "base64":
            body = a2b_base64(message.body)
    except ValueError as error:
        raise WireError(f"it is not a message of Celery's: {error}") from None
    check_headers(message.headers or {}, body, message.content_type)
    return payload


def check_headers(headers: dict[str, Any], body: str | bytes | None, content_type: str | None) -> None:
    """Check what a message says of itself.

    Args:
        headers: of the message.
        body: of the message; in Celery's protocol 1 it says what others say in headers.
        content_type: of the body.

    Raises:
        WireError: a part is missing, of another type, or longer than any such thing can be; the error says which.
    """
    try:
        if "task" in headers:
            msgspec.convert(headers, _TaskHeaders)
            _check_body(body, "compression" in headers, content_type)
        elif body is None:
            raise ValueError("it has no body")  # Celery measures the body of what it does not know
        elif b'"task"' in (body.encode("utf-8", "replace") if isinstance(body, str) else body):
            _check_first_protocol(body)
    except ValueError as error:
        raise WireError(f"it is not a message of Celery's: {error}") from None


def _check_body(body: str | bytes | None, is_compressed: bool, content_type: str | None) -> None:
    """Celery takes the body of a task apart before it asks whether it is one."""
    if body == EMPTY_BODY and content_type == _JSON:
        return
    if not (body or "").strip():
        raise ValueError("it has no body")
    if content_type is None or content_type in TRUSTED_CONTENT:
        raise ValueError(f"its body is of type {content_type}, which has no parts")
    if is_compressed or content_type != _JSON:
        return  # see CheckedBody
    try:
        # Large arguments are not built twice.
        parts = msgspec.json.decode(body or "", type=tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw])
        fits = [bytes(part)[:1] for part in parts] in ([b"[", b"{", b"{"], [b"[", b"{", b"n"])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        try:
            fits = _has_parts(json.loads(body or ""))
        except (ValueError, RecursionError):
            return  # Celery cannot read it either, and says so
    if not fits:
        raise ValueError(_NOT_PARTS)


def _has_parts(body: Any) -> bool:
    if isinstance(body, dict) and "args" in body:
        # Of programs that speak both of Celery's protocols at once.
        arguments, named, embedded = body["args"], body.get("kwargs", {}), None
    elif isinstance(body, (list, tuple)) and len(body) == 3:
        arguments, named, embedded = body
    else:
        return False
    return isinstance(arguments, (list, tuple)) and isinstance(named, Mapping) and isinstance(embedded, Mapping | None)


class CheckedBody:
    """A message of kombu's. One that asks for a task and whose body is none cannot be decoded, in any content type.

    What runs no code when it is decoded, and is known to be allowed, is checked before: see :func:`check_headers`.
    """

    headers: dict[str, Any] | None

    def _decode(self) -> Any:
        found = super()._decode()  # type: ignore[misc]
        if "task" in (self.headers or {}) and not _has_parts(found):
            raise DecodeError(_NOT_PARTS)
        return found


def _check_first_protocol(body: str | bytes) -> None:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return  # Celery cannot read it either, and says so
    if isinstance(found, dict) and "task" in found:
        msgspec.convert(found, _Task)
