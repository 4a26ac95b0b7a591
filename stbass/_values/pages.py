"""Pages for a browser, and text in them."""

from __future__ import annotations

from html import escape
from unicodedata import east_asian_width

from stbass._values.texts import printable, shortened

__all__ = ["html_page", "safe_html", "text_width"]

_LONGEST_TEXT = 2_000


def safe_html(text: str) -> str:
    """Text that may stand in HTML and XML, which have no place for control characters."""
    return escape(printable(shortened(text, _LONGEST_TEXT)))


def text_width(text: str, size: float) -> float:
    """How many pixels a text takes in a picture at most, in bold letters of that size of the usual fonts."""
    return size * sum(map(_width, text))


_WIDTHS = dict.fromkeys("fijlt.,:;|!'()[] ", 0.45) | dict.fromkeys("mwMW@%", 1.1)


def _width(sign: str) -> float:
    if sign.isascii():
        return _WIDTHS.get(sign, 0.8 if sign.isupper() else 0.7)
    return 1.3 if east_asian_width(sign) in "WF" else 1.0


def html_page(title: str, body: str) -> str:
    """A page in one piece, which needs nothing else."""
    title = safe_html(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>\n'
        f'<body style="font-family:system-ui,sans-serif;margin:2em">\n<h1>{title}</h1>\n{body}\n</body></html>\n'
    )
