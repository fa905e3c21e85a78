"""Data with known answers that lies beside the repository, for tests that skip, with the reason, where it does not."""

import atexit
import shutil
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import pytest

_PACKS = Path(__file__).parents[2] / "shared" / "data"


def shared(name: str) -> Path:
    """Return the folder of a pack (`corpus`, `bench` or `curation`), unpacked once for this process.

    The test that asks is skipped where there is no such pack.
    """
    if not (_PACKS / f"{name}.tar.gz").is_file():
        pytest.skip(f"../shared/data/{name}.tar.gz is not beside the repository")
    return _unpacked(name)


@cache
def _unpacked(name: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"openbase-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with tarfile.open(_PACKS / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name
