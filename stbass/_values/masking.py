"""Passwords, keys and tokens in texts for people: found by the name in front of them, and masked.

``api_key=…``, ``"x-api-key": "…"``, ``Authorization: Bearer …``, ``?access_token=…``, ``('cookie', '…')``,
``redis://user:…@host``, ``<password>…</password>``, what pydantic found in a field of such a name: in errors, logs
and the texts of events, also inside the ``repr`` of a request there.
What is only counted or described by such a name (``max_tokens=100``, ``token_type``) stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["MASK", "has_mask", "is_secret_name", "masked", "without_secrets"]

MASK = "***"

_NAME = (
    r"(?:authorization|api[_-]?keys?|cookies?2?|token|passw(?:or)?d|passphrase|pwd|secret|credentials?"
    r"|(?:secret|private|access|auth|signing|encryption)[_-]?key)"
)
_SECRET_NAME = re.compile(rf"[\w.-]*{_NAME}", re.IGNORECASE)

_HINTS = ("authori", "api", "cookie", "token", "passw", "passphrase", "pwd", "secret", "credential", "key", "sig")
_OTHER_HINTS = ("earer", "BEARER", "asic", "://", "sk-", "sk_", "gh", "xox", "AIza", "AKIA", "hf_", "glpat-")

# What stands there instead of a secret already, or says that there is none.
_NOTHING = r"(?!b?\\*['\"]?(?:None|null|true|false|\*\*\*|\[secure\]|<redacted>|secret\w*\()|['\"]['\"])"
# Up to the end of the line at most: of a line of code, a quote may be the end of a text instead of its beginning.
_QUOTED = (
    r"(?P<open>b?(?P<quote>['\"]))(?:\\.|(?!(?P=quote)).)*(?P<close>(?P=quote)?)"
    r"|(?P<escaped_open>(?P<escaped>\\+['\"]))(?:(?!(?P=escaped)).)*(?P<escaped_close>(?P=escaped)?)"
)
# A list, a dict, a tuple, and what is in it, up to its end; of one too long or too deep, up to the end of the line.
_NESTED_MOST = 5
_INSIDE = r"(?:'(?:\\.|[^'\\\n])*+'|\"(?:\\.|[^\"\\\n])*+\"|[^\[\](){}'\"]{1,500}+|['\"])"
_NESTED = rf"[\[({{]{_INSIDE}{{0,500}}+[\])}}]"
for _ in range(_NESTED_MOST):
    _NESTED = rf"[\[({{](?:{_INSIDE}|{_NESTED}){{0,500}}+[\])}}]"
_NAMED = re.compile(
    rf"(?P<name>{_NAME}\\*+['\"]?\]?)(?P<between>\s*+(?:=>|:(?!=)|=(?!=))\s*+){_NOTHING}"
    rf"(?:{_QUOTED}|{_NESTED}|[\[({{].*|(?:-\s+)?(?:(?:bearer|basic|digest|token)\s+)?[^\s,;&'\"()\[\]{{}}<>]+)",
    re.IGNORECASE,
)
_ELEMENT = re.compile(rf"(<[\w:.-]*{_NAME}(?:\s[^<>]*+)?>)(?!\*\*\*)[^<]+(?=</)", re.IGNORECASE)
# As pydantic says it: the place in one line, what was found there in the next.
_INVALID = re.compile(
    rf"(?P<name>^[\w.\[\]-]{{0,200}}{_NAME}(?:\.[^\n]{{0,200}}+)?)(?P<between>\n .*?\binput_value=)(?!\*\*\*).+"
    r"(?=, input_type=)",
    re.IGNORECASE | re.MULTILINE,
)
# Of a header without quotes all belongs to the value, up to the end of the line: written as \r\n in a repr.
_HEADER = re.compile(
    rf"(?P<name>(?:authorization|cookie2?)\s*+)(?P<between>:\s*+){_NOTHING}(?!['\"\[{{(])"
    r"(?:(?<=cookie: )[^'\"\r\n\\]+|(?<=cookie:)[^'\"\r\n\\]+|digest [^\r\n]+|[^'\"\r\n\\,;)\]}]+)",
    re.IGNORECASE,
)
_PAIR = re.compile(
    rf"(?P<name>[(\[]\s*b?(?P<around>\\*['\"])[\w.-]*{_NAME}(?P=around))(?P<between>,\s*+){_NOTHING}(?:{_QUOTED})(?=\s*[)\]])",
    re.IGNORECASE,
)
_QUERY = re.compile(r"(?<=[?&])((?:[\w-]*[_-])?(?:key|sig|signature)=)(?!\*\*\*)[^&\s'\"#]+", re.IGNORECASE)
_OPTION = re.compile(rf"((?<![\w-])--?[\w-]{{0,100}}{_NAME}\s+)(?!-|\*\*\*)[^\s'\"]+", re.IGNORECASE)
_SCHEME = re.compile(r"\b([Bb]earer|BEARER|[Bb]asic)(\s+)(?=[^\s'\"]*[0-9A-Z=])[\w.~+/=-]{8,}")
# A password may have a slash in it, an address with a port has an @ somewhere behind it at times.
_LOGIN = re.compile(r"(://[^/\s:@'\"]*:)(?!\*+@)(?!\d+[/?#])[^\s@'\"]{1,300}(?=@)")
_LONE_LOGIN = re.compile(r"(://)(?=[^/\s:@'\"]*\d)(?=[^/\s:@'\"]*[A-Za-z])[^/\s:@'\"]{12,300}(?=@)")
# Connection strings: addresses, and those of libpq and ODBC, which are words and values.
_CONNECTION = re.compile(r"\A\s*(?:[\w+.-]+://|[\w ]+\s*=.*\b(?:password|pwd)\s*=|(?:password|pwd)\s*=)", re.IGNORECASE)
_PASSWORD = re.compile(
    r"((?:\b|(?<=%3B))(?:password|passwd|pwd|sslpassword)(?:\s*=\s*|%3D))"
    r"(?:'(?:\\.|[^'\\])*'|\{[^}]*\}|(?:(?!%3B)[^\s&;'#])+)",
    re.IGNORECASE,
)
# Keys that services give out look like keys without a name beside them.
_KEY = re.compile(
    r"\b(?:sk-|[sr]k_live_|gh[pousr]_|github_pat_|xox[abprs]-|hf_|glpat-|AIza|AKIA)(?=[\w-]{0,200}\d)[\w-]{12,}"
)
_NOT_A_SECRET = re.compile(r"(?:unexpected|invalid|unknown|illegal|expected|next|bad|last|this)\s+$", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether what is called so is to be masked: a header, a field, a parameter, a variable of the environment."""
    return _SECRET_NAME.fullmatch(name) is not None


def masked(text: str) -> str:
    """The text with the values of secret names, keys of known services, and passwords in addresses masked."""
    lowered = text.lower()
    # Most texts hold nothing of the kind, and searching them for single words takes hardly any time.
    if _has_any(lowered, _HINTS):
        text = _HEADER.sub(rf"\g<name>\g<between>{MASK}", text)
        text = _NAMED.sub(_without_value, text)
        text = _PAIR.sub(_without_value, text)
        text = _ELEMENT.sub(rf"\1{MASK}", text)
        text = _INVALID.sub(rf"\g<name>\g<between>{MASK}", text)
        text = _OPTION.sub(rf"\1{MASK}", text)
        text = _QUERY.sub(rf"\1{MASK}", text)
    if _has_any(text, _OTHER_HINTS):
        text = _SCHEME.sub(rf"\1\2{MASK}", text)
        text = _LOGIN.sub(rf"\1{MASK}", text)
        text = _LONE_LOGIN.sub(rf"\1{MASK}", text)
        text = _KEY.sub(MASK, text)
    return text


def _has_any(text: str, hints: tuple[str, ...]) -> bool:
    for hint in hints:  # noqa: SIM110 - three times as fast as any() of a generator
        if hint in text:
            return True
    return False


def without_secrets(name: str, value: Any) -> Any:
    """A copy of data in which passwords are masked: what goes by a secret's name, and those in addresses.

    Other texts stay as they are. ``token`` alone is also a word for other things, and stays.

    Args:
        name: what it is called.
        value: lists, tuples and dicts at any depth are looked into.
    """
    if isinstance(value, Mapping):
        return {key: without_secrets(str(key), one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(without_secrets(name, one) for one in value)
    if not isinstance(value, (str, bytes)) or not value:
        return value
    if name.lower() != "token" and is_secret_name(name):
        return MASK
    if isinstance(value, bytes):
        return value
    if _CONNECTION.search(value):
        return _PASSWORD.sub(rf"\1{MASK}", _LOGIN.sub(rf"\1{MASK}", value))
    return value


def has_mask(value: Any) -> bool:
    """Whether something in data was masked by :func:`without_secrets`."""
    if isinstance(value, Mapping):
        return any(map(has_mask, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(has_mask, value))
    return isinstance(value, str) and (value == MASK or (MASK in value and _CONNECTION.search(value) is not None))


def _without_value(found: re.Match[str]) -> str:
    name, between = found["name"], found["between"]
    opening = found["open"] or found["escaped_open"] or ""
    if not opening and name.lower() == "token" and _NOT_A_SECRET.search(found.string[: found.start()][-20:]):
        # A parser's "unexpected token: }".
        return found[0]
    return f"{name}{between}{opening}{MASK}{found['close'] or found['escaped_close'] or ''}"
