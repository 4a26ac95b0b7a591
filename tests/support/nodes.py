"""Processes of workflows, at the top level of a module: for other Python processes and for real workers."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from stbass.context import running_context
from stbass.workflow import BaseProcess, ProcessConfig, ProcessMetadata, ProcessResult, ProcessType, RetryStrategy


class Node(BaseProcess):
    """Says where it runs, and what it was given."""

    def __init__(self, name: str, kind: ProcessType = ProcessType.ASYNC, **config: Any) -> None:
        super().__init__(ProcessConfig(kind, name, **config))

    def process(self, input_data: Any) -> Any:
        """Where, and what."""
        given = input_data
        if isinstance(input_data, dict):
            given = {
                key: value.data if isinstance(value, ProcessResult) else value for key, value in input_data.items()
            }
        return {
            "pid": os.getpid(),
            "thread": threading.current_thread().name,
            "main": threading.current_thread() is threading.main_thread(),
            "given": given,
        }


class Give(Node):
    """Gives back a value."""

    def __init__(self, name: str, value: Any = None, kind: ProcessType = ProcessType.ASYNC, **config: Any) -> None:
        super().__init__(name, kind, **config)
        self.value = value

    def process(self, input_data: Any) -> Any:
        """The value."""
        return self.value


class Add(Node):
    """Adds up what it depends on, and one."""

    def process(self, input_data: Any) -> Any:
        """The sum."""
        return sum(self.get_process_result(input_data, name) for name in input_data or {}) + 1


class Failing(Node):
    """Fails."""

    def process(self, input_data: Any) -> Any:
        """Raise."""
        raise LookupError("not there")


class FailsFirst(Node):
    """Fails so many times, and then completes; counts in a file, so that it does wherever it runs."""

    def __init__(
        self, name: str, path: str, times: int, retries: int, kind: ProcessType = ProcessType.ASYNC, **config: Any
    ) -> None:
        super().__init__(name, kind, retry_strategy=RetryStrategy(retries, 0.0), **config)
        self.path = path
        self.times = times

    def process(self, input_data: Any) -> Any:
        """Count; fail."""
        with Path(self.path).open("a") as file:
            file.write(f"{os.getpid()}\n")
        tries = len(Path(self.path).read_text().split())
        if tries <= self.times:
            raise ConnectionError(f"try {tries}")
        return tries


class Blocks(Node):
    """Blocks for seconds, having written down its process id."""

    def __init__(self, name: str, path: str, seconds: float, kind: ProcessType, **config: Any) -> None:
        super().__init__(name, kind, **config)
        self.path = path
        self.seconds = seconds

    def process(self, input_data: Any) -> Any:
        """Block."""
        if self.path:
            Path(self.path).write_text(str(os.getpid()))
        time.sleep(self.seconds)
        return "woke up"


class Waits(Node):
    """Waits for seconds in a coroutine."""

    def __init__(self, name: str, seconds: float, kind: ProcessType = ProcessType.ASYNC, **config: Any) -> None:
        super().__init__(name, kind, **config)
        self.seconds = seconds

    async def execute(self, input_data: Any) -> Any:
        """Wait."""
        await asyncio.sleep(self.seconds)
        return {"pid": os.getpid(), "main": threading.current_thread() is threading.main_thread()}


class Steps(Node):
    """Tells its progress."""

    async def execute(self, input_data: Any) -> Any:
        """Tell."""
        for step in (1, 2, 3):
            self.report_progress(step, 4, f"step {step}")
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        return "done"


class Unpicklable(Node):
    """Has what cannot be pickled."""

    def __init__(self, name: str, kind: ProcessType = ProcessType.PROCESS) -> None:
        super().__init__(name, kind)
        self.lock = threading.Lock()


class GivesLock(Node):
    """Gives back what cannot go anywhere."""

    def process(self, input_data: Any) -> Any:
        """A lock."""
        return [threading.Lock()]


class Configured(BaseProcess):
    """Takes a whole configuration."""

    def process(self, input_data: Any) -> Any:
        """Its input, and the rules that came with it."""
        return input_data, self.config.validation_rules


class Who(Node):
    """Says what its context on the core says."""

    async def execute(self, input_data: Any) -> Any:
        """Say."""
        ctx = running_context()
        assert ctx is not None
        return {
            "name": ctx.process_name,
            "parent": ctx.parent,
            "placement": ctx.placement,
            "remaining": ctx.remaining,
            "pid": os.getpid(),
            "given": sorted(input_data or {}),
        }


class Recorded(ProcessMetadata):
    """Metadata that remember what they were."""

    def __init__(self, process_id: Any) -> None:
        self.seen: list[tuple[str, Any]] = []
        super().__init__(process_id)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name != "seen":
            self.seen.append((name, value))


class Tool(Node):
    """A command line tool that is called in the process: ends as it does for these arguments."""

    def __init__(self, name: str, *args: str, kind: ProcessType = ProcessType.PROCESS) -> None:
        super().__init__(name, kind)
        self.args = args

    def process(self, input_data: Any) -> Any:
        """Read the arguments, and leave."""
        parser = argparse.ArgumentParser(prog="tool")
        parser.add_argument("--count", type=int, required=True)
        sys.exit(f"{parser.parse_args(self.args).count} of them are missing")
