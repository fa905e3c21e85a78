"""Files: digests, JSON with one spelling, and outputs that appear whole or not at all."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.errors import UserError

OUT = Path("out")


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(root: Path) -> str:
    """Return the hex SHA-256 over `sha256  relative/path` lines of every file below `root`, in path order."""
    lines = [
        f"{sha256_file(path)}  {path.relative_to(root).as_posix()}\n"
        for path in sorted(root.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_json(path: Path) -> Any:
    """Return the parsed JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any, sort_keys: bool = True) -> None:
    """Write JSON with sorted keys, so that equal values are equal bytes; or as they come, where their order counts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=2, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, keys in the order given."""
    with jsonl_writer(path) as write:
        for row in rows:
            write(row)


@contextlib.contextmanager
def jsonl_writer(path: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that appends a row to a new JSON-lines file, for rows that come while other work is done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:

        def write(row: Mapping[str, Any]) -> None:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

        yield write


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the parsed lines of a JSON-lines file."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def require(path: Path, stage: str) -> Path:
    """Return `path`, an output of `stage`.

    Raises:
        UserError: It does not exist; the message names the stage that makes it.
    """
    if not path.exists():
        raise UserError(f"'{path}' is missing. It is an output of stage '{stage}': run `dvc repro {stage}`.")
    return path


@contextlib.contextmanager
def output(stage: str) -> Iterator[Path]:
    """Yield an empty directory that becomes `out/<stage>` when the block ends without an exception, as `whole` does."""
    with whole(OUT / stage) as partial:
        yield partial


@contextlib.contextmanager
def whole(final: Path) -> Iterator[Path]:
    """Yield an empty directory that becomes `final` when the block ends without an exception.

    Until then it is `<final>.partial`; an exception removes it, and what a killed run left of it is
    removed by the next one. So `final` is whole or absent.
    """
    partial = final.with_name(f"{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    old = final.with_name(f"{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)  # to remove it takes long, and half of it may not stay under its name
    partial.rename(final)
    shutil.rmtree(old, ignore_errors=True)
