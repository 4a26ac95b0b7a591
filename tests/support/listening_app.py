"""An application whose receivers of Celery's signals write down what they are told, of tasks and of processes alike."""

from __future__ import annotations

import json
import os
from typing import Any

from celery import current_task, signals

from stbass.backends.celery import POOL, make_app
from tests.support.listening import LOG, fails_here, seen

POOLS = {"asyncio": POOL}
pool = os.environ.get("STBASS_POOL", "asyncio")
app = make_app(
    "listening",
    broker_url=os.environ["STBASS_BROKER_URL"],
    include=["tests.support.listening"],
    worker_pool=POOLS.get(pool, pool),
)
tokens: dict[str, Any] = {}


def _write(signal: str, sender: Any, **told: Any) -> None:
    about = {"signal": signal, "sender": getattr(sender, "name", type(sender).__name__), **told}
    app.backend.client.rpush(LOG, json.dumps(about))


def _run_of(sender: Any, task_id: str | None = None) -> dict[str, Any]:
    """What a receiver finds where it looks for the task that runs."""
    found: str = sender.request.id
    return {"id": found, "same": task_id in (None, found), "current": current_task.name == sender.name}


@signals.task_prerun.connect
def _raises(**_told: Any) -> None:
    raise LookupError("a receiver that fails")


@signals.task_received.connect
def _received(sender: Any, request: Any, **more: Any) -> None:
    _write("task_received", sender, more=[*more], id=request.id)


@signals.task_prerun.connect
def _prerun(sender: Any, task_id: str, task: Any, args: Any, kwargs: Any, **more: Any) -> None:
    tokens[task_id] = seen.set(f"set for {task_id}")
    _write(
        "task_prerun",
        sender,
        **_run_of(sender, task_id),
        args=args,
        kwargs=kwargs,
        task=task is sender,
        seen=seen.get(),
        more=[*more],
    )


@signals.task_success.connect
def _success(sender: Any, result: Any, runtime: float, **more: Any) -> None:
    _write("task_success", sender, **_run_of(sender), result=result, timed=0 <= runtime < 60, more=[*more])


@signals.task_failure.connect
def _failure(
    sender: Any, task_id: str, exception: Any, args: Any, kwargs: Any, traceback: Any, einfo: Any, **more: Any
) -> None:
    _write(
        "task_failure",
        sender,
        **_run_of(sender, task_id),
        args=args,
        kwargs=kwargs,
        error=f"{type(exception).__name__}: {exception}",
        where="in fails_here" in einfo.traceback,
        traceback=type(traceback).__name__,
        kind=einfo.type.__name__,
        more=[*more],
    )


@signals.task_revoked.connect
def _revoked(sender: Any, request: Any, terminated: Any, signum: Any, expired: Any, **more: Any) -> None:
    _write("task_revoked", sender, id=request.id, terminated=terminated, signum=signum, expired=expired, more=[*more])


@signals.task_rejected.connect
def _rejected(sender: Any, message: Any, exc: Any, **more: Any) -> None:
    _write("task_rejected", sender, id=message.headers["id"], error=type(exc).__name__, more=[*more])


@signals.task_postrun.connect
def _postrun(
    sender: Any, task_id: str, task: Any, args: Any, kwargs: Any, retval: Any, state: str, **more: Any
) -> None:
    _write(
        "task_postrun",
        sender,
        **_run_of(sender, task_id),
        args=args,
        kwargs=kwargs,
        task=task is sender,
        retval=retval if not isinstance(retval, BaseException) else f"{type(retval).__name__}: {retval}",
        state=state,
        seen=seen.get(),
        more=[*more],
    )
    seen.reset(tokens.pop(task_id))


@signals.worker_process_init.connect
def _process_init(sender: Any, **more: Any) -> None:
    _write("worker_process_init", sender, name=sender, more=[*more])


@signals.worker_process_shutdown.connect
def _process_shutdown(sender: Any, pid: int, exitcode: int, **more: Any) -> None:
    _write("worker_process_shutdown", sender, name=sender, pid=pid == os.getpid(), exitcode=exitcode, more=[*more])


@app.task(name="listening.work", acks_late=True)
def work(text: str = "") -> Any:
    """An ordinary task."""
    if text:
        fails_here(text)
    return [seen.get().split()[0], 1]
