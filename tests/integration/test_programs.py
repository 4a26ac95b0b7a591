"""What only a program of its own can show: scripts, and what would end or limit this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_a_full_disk_leaves_whole_rows(tmp_path: Path) -> None:
    # given a program that may not write files of more than 1,000 bytes
    program = f"""
import resource
from pathlib import Path
from stbass.dataflow.library.csv_files import CsvSink
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sink = CsvSink(Path({str(tmp_path / "out.csv")!r}), ["a"])
sink.open(None)
try:
    for number in range(1000):
        sink.write([(f"{{number:08}}",)] * 10)
except OSError as error:
    print(error.strerror)
"""
    # when it writes more
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    # then it is told, and the file ends with what was written whole
    assert done.stdout == "File too large\n"
    lines = (tmp_path / "out.csv.part").read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 110
    assert lines[-1] == "00000010\n"


def test_a_script_gives_its_classes_names_that_others_can_import(tmp_path: Path) -> None:
    # Given a script that dumps a process of its own classes, and builds it again,
    (tmp_path / "my_script.py").write_text("""
from stbass.dataflow import Component, IOController, LocalProcess
from stbass.dataflow.builder import ProcessBuilder
from stbass.dataflow.spec.model import load

class A(Component):
    io = IOController(outputs=["x"])
    async def step(self):
        await self.io.close()

if __name__ == "__main__":
    LocalProcess([A(name="a")], [], name="p").dump("m.yaml")
    again = ProcessBuilder.build(load("m.yaml"))
    assert type(again.components["a"]) is A
""")
    subprocess.run([sys.executable, "my_script.py"], cwd=tmp_path, check=True, timeout=60)
    # then the file names the module, and not __main__.
    data = yaml.safe_load((tmp_path / "m.yaml").read_text())
    assert data["stbass"]["process"]["args"]["components"][0]["type"] == "my_script.A"


def test_a_process_of_a_script_is_refused() -> None:
    script = (
        "from stbass.process import Process\nfrom stbass.wire import dumps\n"
        "from stbass.errors import NotTransportable\n"
        "@Process\nasync def mine(ctx): ...\n"
        "class Mine(Process): ...\n"
        "for process in (mine, Mine()):\n"
        "    try:\n        dumps(process)\n    except NotTransportable as error:\n        print(error)\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    for line in done.stdout.splitlines():
        assert "defined in the script itself, which a worker does not import; move it to the top level" in line
    assert len(done.stdout.splitlines()) == 2


def test_a_worker_with_a_wrong_setting_does_not_start() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "-Q", "anthropic"],
        env={**os.environ, "STBASS_LEASE": "soon"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "STBASS_LEASE='soon': must be a number of seconds" in done.stderr
