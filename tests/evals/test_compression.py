import shutil
import subprocess

import pytest

from evals.compression import compressed_size, compressed_sizes
from tests.evals import world

DATA = [text.encode() for text in world.texts("json")]


@pytest.mark.parametrize("command", [["xz", "-9e", "-T1"], ["zstd", "-19", "-q"]])
def test_sizes_are_those_of_the_command_line_program(command: list[str]) -> None:
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    for data in DATA:
        size = len(subprocess.run([*command, "-c"], input=data, capture_output=True, check=True).stdout)
        assert compressed_size(data)[f"{command[0]}_bytes"] == pytest.approx(size, abs=4)


def test_threads_change_no_size() -> None:
    assert compressed_sizes(DATA, 1) == compressed_sizes(DATA, 3) == [compressed_size(data) for data in DATA]
