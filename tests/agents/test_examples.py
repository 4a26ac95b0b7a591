"""examples/agents on a real worker, against the fake LLM, which refuses each agent once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_research_agents_find_out_what_they_were_asked() -> None:
    # given: no key, so that the services are fake
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    # when
    done = subprocess.run(
        [sys.executable, "-m", "examples.agents.research"],
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    # then
    assert done.returncode == 0, done.stdout + done.stderr
    openai, anthropic, pydantic_ai, langgraph, models = done.stdout.splitlines()
    assert "ResearchWithOpenAI (True, attempt 2): gpt-4.1-mini on 'Celery is a distributed task queue" in openai
    assert "ResearchWithAnthropic (True, attempt 2): claude-haiku-4-5 on 'Occam is a language" in anthropic
    assert "ResearchWithPydanticAI (True, attempt 2): topic='Celery is a distributed task queue" in pydantic_ai
    assert "ResearchWithLangGraph (True, attempt 2): gpt-4.1-mini on 'Occam is a language" in langgraph
    assert models == "models: claude-haiku-4-5, gpt-4.1-mini"
