import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.errors import UserError
from stages.runner import run

ROOT = Path(__file__).parents[2]
SLOW_STAGE = """
import signal
import time
from stages.files import output
from stages.runner import run

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored

def main():
    with output("slow") as folder:
        (folder / "half").write_text("half")
        print("writing", flush=True)
        time.sleep(60)

run("stages/slow.py", main)
"""


def failing(error: BaseException) -> str:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run("stages/some.py", main)
    return str(ended.value.code)


def test_what_a_user_can_cause_is_one_line_with_the_stage() -> None:
    assert failing(UserError("some.steps = -1: raise it")) == "some: some.steps = -1: raise it"


def test_a_full_disk_is_one_line_with_the_file_and_the_remedy() -> None:
    message = failing(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/some/file"))
    assert message.startswith("some: no space left on the disk while writing 'out/some/file'. Free some space")


def test_a_defect_keeps_its_traceback() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run("stages/some.py", main)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_stage_says_so_and_leaves_nothing(sent: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW_STAGE]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        process.send_signal(sent)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors == "slow: interrupted; nothing was left half-written. Run it again.\n"
    assert list((tmp_path / "out").iterdir()) == []
