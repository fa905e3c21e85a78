"""The record by which a folder's damage is found: the size and SHA-256 of every file. Imports no torch."""

import json
from pathlib import Path
from typing import TypedDict

from stages.files import sha256_file, write_json

NAME = "digests.json"
"""Its file, written last, in the folder that it describes."""


class Digest(TypedDict):
    """What a file must be."""

    sha256: str
    size: int


def measure(file: Path) -> Digest:
    """Return the digest of a file as it is."""
    return {"sha256": sha256_file(file), "size": file.stat().st_size}


def write(folder: Path, files: dict[str, Digest]) -> None:
    """Record the digests of a folder's files, by name."""
    write_json(folder / NAME, files)


def faults(folder: Path, part: int = 0, parts: int = 1) -> list[str]:
    """Return what is wrong with a folder, for people; nothing if it is as it was written.

    Args:
        folder: A folder with a record.
        part: Which share of the files to read, when several processes share the work.
        parts: How many share it.
    """
    try:
        recorded: dict[str, Digest] = json.loads((folder / NAME).read_text(encoding="utf-8"))
        expected = {name: (digest["size"], digest["sha256"]) for name, digest in sorted(recorded.items())}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return [f"{NAME} is missing or unreadable"]
    found = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {NAME}
    wrong = [f"{name} is not in {NAME}" for name in sorted(found - set(expected))]
    mine = list(expected.items())[part::parts]
    return wrong + [fault for name, (size, sha256) in mine for fault in _fault(folder / name, size, sha256)]


def _fault(file: Path, size: int, sha256: str) -> list[str]:
    """Return what is wrong with a file; the cheap test comes first."""
    try:
        if file.stat().st_size != size:
            return [f"{file.name} has {file.stat().st_size} bytes, not {size}"]
        return [] if sha256_file(file) == sha256 else [f"{file.name} does not have its SHA-256"]
    except OSError as error:
        return [f"{file.name}: {error.strerror}"]
