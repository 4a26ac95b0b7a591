"""The nodes of :mod:`examples.workflow_fleet`, for its workers to include."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from stbass.workflow import BaseProcess, ProcessConfig

__all__ = ["Crawl", "Embed", "Reason", "Report"]


class Crawl(BaseProcess):
    """Fetches pages; says how far it is."""

    def __init__(self, pages: int) -> None:
        super().__init__(ProcessConfig(process_id="crawl", timeout=10))
        self.pages = pages

    async def execute(self, input_data: dict[str, str]) -> dict[str, Any]:
        """Fetch them one by one."""
        for page in range(self.pages):
            await asyncio.sleep(0.02)
            self.report_progress(page + 1, self.pages)
        return {"texts": [f"{input_data['site']}, page {page + 1}" for page in range(self.pages)], "pid": os.getpid()}


class Reason(BaseProcess):
    """Asks a model what the pages say."""

    def __init__(self) -> None:
        super().__init__(ProcessConfig(process_id="reason", timeout=10))

    async def execute(self, input_data: Any) -> dict[str, Any]:
        """Ask."""
        texts = self.get_process_result(input_data, "crawl")["texts"]
        await asyncio.sleep(0.1)
        return {"answer": f"{len(texts)} pages say that the sky is blue", "pid": os.getpid()}


class Embed(BaseProcess):
    """Turns the pages into numbers, with a library that blocks."""

    def __init__(self) -> None:
        super().__init__(ProcessConfig(process_id="embed", timeout=10))

    def process(self, input_data: Any) -> dict[str, Any]:
        """Compute."""
        texts = self.get_process_result(input_data, "crawl")["texts"]
        return {"vectors": [[len(text), text.count("e")] for text in texts], "pid": os.getpid()}


class Report(BaseProcess):
    """Puts it together, here."""

    def __init__(self) -> None:
        super().__init__(ProcessConfig(process_id="report"))

    def process(self, input_data: Any) -> str:
        """Write."""
        vectors = self.get_process_result(input_data, "embed")["vectors"]
        return f"{self.get_process_result(input_data, 'reason')['answer']}; {len(vectors)} vectors"
