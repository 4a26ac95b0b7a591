"""Addresses of MCP servers: what they mean, and how they may be shown.

======================================  ===========================================================================
``http://…`` or ``https://…``           streamable HTTP (by custom the path is ``/mcp``)
``http://…/sse`` or ``https://…/sse``   the older HTTP with server-sent events
``stdio:NAME=value … command word …``   a command, started when needed, spoken to over its standard input and output
======================================  ===========================================================================

``http://user:password@host/…`` logs in with HTTP Basic. The command of a ``stdio:`` address is split into words as a
POSIX shell does it, and no shell runs it; words ``NAME=value`` before it are added to its environment, which otherwise
holds only the few variables that the ``mcp`` package deems safe to hand on (``PATH``, ``HOME`` and the like).
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from stbass.errors import ConfigurationError

__all__ = ["Address", "parse_address"]

MASK = "***"

_FORMS = "use http(s)://host/mcp (streamable HTTP), http(s)://host/sse (server-sent events), or stdio:command"
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth|bearer", re.IGNORECASE)
_NAMED_VALUE = re.compile(r"(-{0,2}[A-Za-z][\w.-]*(?:=|:\s*))(.+)", re.DOTALL)
_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_QUERY = re.compile(r"(?<=\?)[^\s#]+")
_WORD = re.compile(r"[A-Za-z0-9_~%-]{20,}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is.

    Args:
        kind: how to speak to it.
        shown: the address for people, with what may be confidential masked.
        url: of an HTTP address, the part that logs may see: no login, no query, path segments that look like tokens
            masked.
        real: of an HTTP address, what the server sees: path and query as given.
        login: of an HTTP address, user and password.
        command: of a ``stdio:`` address, the words of the command.
        environment: of a ``stdio:`` address, what is added to its environment.
        secrets: what must not show, wherever it turns up.
    """

    kind: Literal["http", "sse", "stdio"]
    shown: str
    url: str = field(default="", repr=False)
    real: str = field(default="", repr=False)
    login: tuple[str, str] | None = field(default=None, repr=False)
    command: tuple[str, ...] = field(default=(), repr=False)
    environment: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def redacted(self, text: str, *more: str) -> str:
        """``text`` with every secret of this address, and ``more`` of them, masked."""
        for secret in sorted({*self.secrets, *more}, key=len, reverse=True):
            # Something this short is found all over an innocent text.
            if len(secret) >= 4:
                text = text.replace(secret, MASK)
        return text


def parse_address(address: str) -> Address:
    """Read an address.

    Raises:
        TypeError: it is not a string.
        ConfigurationError: it has none of the forms above. The message does not repeat it.
    """
    if not isinstance(address, str):
        raise TypeError(f"an MCP server's address is a str, got {type(address).__name__}; {_FORMS}")
    scheme, colon, rest = address.partition(":")
    if colon and scheme.lower() == "stdio":
        return _stdio(rest)
    if colon and scheme.lower() in ("http", "https"):
        return _http(address)
    found = f"the scheme {scheme!r}" if colon and scheme.isalnum() else "none"
    raise ConfigurationError(f"an MCP server's address begins with its scheme, found {found}; {_FORMS}")


def _http(address: str) -> Address:
    try:
        parts = urlsplit(address.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        # Not in Python's words: they repeat what stands where the port should be, which can be half of a password.
        raise ConfigurationError(
            f"this MCP address is not a URL: the host or port is wrong (in a login, write @ : / as %40 %3A %2F); "
            f"{_FORMS}"
        ) from None
    if not host:
        raise ConfigurationError(f"this MCP server's address has no host; {_FORMS}")
    place = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}" + (f":{port}" if port is not None else "")
    path = parts.path or "/"
    segments = path.split("/")
    tokens = [segment for segment in segments if _looks_like_token(segment)]
    shown_path = "/".join(MASK if segment in tokens else segment for segment in segments)
    login = _login(parts)
    # The user's name can be the token: GitHub's and others' are used so.
    shown_place = place.replace("://", f"://{MASK}@", 1) if login is not None else place
    secrets = [*tokens, *(login or ())]
    for pair in parts.query.split("&"):
        value = pair.rpartition("=")[2]
        secrets += [value, unquote(value)]
    return Address(
        kind="sse" if path.rstrip("/").endswith("/sse") else "http",
        shown=shown_place + shown_path + (f"?{MASK}" if parts.query else ""),
        url=place + shown_path,
        real=place + path + (f"?{parts.query}" if parts.query else ""),
        login=login,
        secrets=tuple(secret for secret in secrets if secret),
    )


def _login(parts: SplitResult) -> tuple[str, str] | None:
    if parts.username is None and parts.password is None:
        return None
    return unquote(parts.username or ""), unquote(parts.password or "")


def _looks_like_token(text: str) -> bool:
    """Whether this is long and mixed enough to be a key: services put keys in paths too."""
    return bool(_WORD.fullmatch(text) and re.search(r"\d", text) and re.search(r"[A-Za-z]", text))


def _stdio(rest: str) -> Address:
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise ConfigurationError(f"the command after stdio: cannot be split into words ({error}); {_FORMS}") from None
    environment: list[tuple[str, str]] = []
    while words and (assignment := _ASSIGNMENT.fullmatch(words[0])):
        environment.append((assignment[1], assignment[2]))
        del words[0]
    if not words:
        raise ConfigurationError(f"there is no command after stdio:; {_FORMS}")
    shown = [f"{name}={MASK}" for name, _ in environment]
    secrets = [value for _, value in environment]
    after_secret_flag = False
    for word in words:
        masked, hidden = (MASK, [word]) if after_secret_flag and not word.startswith("-") else _masked(word)
        after_secret_flag = word.startswith("-") and "=" not in word and bool(_SECRET_NAME.search(word))
        shown.append(masked if hidden else shlex.quote(word))
        secrets += hidden
    return Address(
        kind="stdio",
        shown="stdio:" + " ".join(shown),
        command=tuple(words),
        environment=tuple(environment),
        secrets=tuple(secret for secret in secrets if secret),
    )


def _masked(word: str) -> tuple[str, list[str]]:
    """A word of a command for people, and what was hidden of it."""
    named = _NAMED_VALUE.fullmatch(word)
    if named and "://" not in named[1] + named[2][:2] and _SECRET_NAME.search(named[1]):
        return named[1] + MASK, [named[2]]
    if _looks_like_token(word):
        return MASK, [word]
    if "://" in word:
        hidden = [*_LOGIN.findall(word), *_QUERY.findall(word)]
        return _QUERY.sub(MASK, _LOGIN.sub(MASK, word)), hidden
    return word, []
