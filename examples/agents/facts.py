"""What the research agents can look up: a tool that needs no network."""

from __future__ import annotations

__all__ = ["TOPICS", "look_up"]

TOPICS = {
    "occam": "Occam is a language of 1983 in which processes talk over channels; the transputer ran it.",
    "celery": "Celery is a distributed task queue for Python; brokers such as Redis carry its messages.",
}


def look_up(topic: str) -> str:
    """Look up what is known about a topic: one sentence."""
    return next((fact for name, fact in TOPICS.items() if name in topic.lower()), f"Nothing is known about {topic}.")
