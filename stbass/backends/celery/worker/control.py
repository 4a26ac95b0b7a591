"""What this worker answers to Celery's remote control, where Celery's own answer would not be the truth."""

from __future__ import annotations

from typing import Any

from celery.worker.control import inspect_command

from stbass.backends.celery.worker.runtime import this_runtime

__all__ = ["ping"]


@inspect_command(default_timeout=0.2)
def ping(state: Any, **_options: Any) -> dict[str, str]:
    """Ping worker(s)."""
    runtime = this_runtime()
    # Without patience: this is the thread that takes messages.
    blocked = None if runtime is None else runtime.watch.blocked()
    return {"ok": "pong"} if blocked is None else {"error": blocked}
