import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource
from model.launching import memory
{keep}
for step in range(20):
    if step == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = b'x' * 2**26
    del x
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: str) -> int:
    """Return how many pages ten steps get that each allocate and free 64 MiB."""
    script = FAULTS.format(keep=keep)
    return int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_freed_memory_is_taken_again_without_new_pages() -> None:
    pages = 10 * 2**26 // resource.getpagesize()
    assert faults("") > pages // 2
    assert faults("memory.keep_freed()") < pages // 100
