"""The pytest plug-in, used as the page on testing says, in a run of pytest of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", (ROOT / "docs" / "testing.md").read_text(), re.DOTALL | re.M)

STRICT = ["-W", "error::ResourceWarning", "-W", "error::pytest.PytestUnraisableExceptionWarning"]


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *STRICT, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder)))},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_page_passes_as_it_stands(tmp_path: Path) -> None:
    assert [name for name, _ in BLOCKS] == ["parcel_agents.py", "test_in_memory.py", "test_on_a_fleet.py"]
    for name, code in BLOCKS:
        (tmp_path / name).write_text(code)
    # pytest-celery, whose fixtures have names of their own, is loaded beside it.
    done = run_pytest(tmp_path, "--trace-config")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    assert "pytest_celery" in done.stdout


def test_a_run_without_these_fixtures_loads_neither_celery_nor_redis(tmp_path: Path) -> None:
    (tmp_path / "test_something.py").write_text(
        "import sys\n\ndef test_nothing_heavy():\n"
        "    assert not {'celery', 'redis', 'stbass.testing.worker', 'stbass.placement'} & set(sys.modules)\n"
    )
    # pytest-celery itself loads Celery.
    done = run_pytest(tmp_path, "-p", "no:celery", "-p", "no:pytest_celery", "-p", "no:pytest-celery")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_fixtures_are_listed_with_what_they_are(tmp_path: Path) -> None:
    listed = run_pytest(tmp_path, "--fixtures").stdout
    for fixture in ("stbass_memory", "stbass_redis", "stbass_registry", "stbass_worker"):
        assert re.search(rf"^{fixture}\b.*\n    \S", listed, re.M), fixture
