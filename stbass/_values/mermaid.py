"""Text for Mermaid diagrams."""

from __future__ import annotations

__all__ = ["mermaid_text"]


def mermaid_text(text: str) -> str:
    """Text to stand between Mermaid's quotes: its entities are numbers after a #, and Markdown in backticks is read."""
    return "".join(
        sign if sign.isalnum() or sign in " _-.,:→…[]()/=+@" else f"#{ord(sign)};" if sign.isprintable() else " "
        for sign in text
    )
