"""Task lists: plain callables, run one after the other, at the same time, or half and half.

    process = Process("report", strategy="hybrid")
    process.add_task(load, "data.csv")
    process.add_task(draw, width=800)
    process.add_task(mail, "team@example.org")
    results = process.execute()

A front end over the core: its engine and its backends run the tasks, and ``placement=`` sends one to where the registry
says. This ``Process`` is not :class:`stbass.Process`.
"""

from __future__ import annotations

from stbass.tasklist.process import Process, Status, Strategy
from stbass.tasklist.task import Task

__all__ = ["Process", "Status", "Strategy", "Task"]
