"""Pages for a browser, and text in them."""

from __future__ import annotations

from html import escape

from stbass._values.texts import printable, shortened

__all__ = ["html_page", "safe_html"]

_LONGEST_TEXT = 2_000


def safe_html(text: str) -> str:
    """Text that may stand in HTML and XML, which have no place for control characters."""
    return escape(printable(shortened(text, _LONGEST_TEXT)))


def html_page(title: str, body: str) -> str:
    """A page in one piece, which needs nothing else."""
    title = safe_html(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>\n'
        f'<body style="font-family:system-ui,sans-serif;margin:2em">\n<h1>{title}</h1>\n{body}\n</body></html>\n'
    )
