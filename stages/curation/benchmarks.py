"""Evaluation data that curation is checked against: rows of benchmark folders, as the Hugging Face Hub lays them out.

A folder has a README.md whose front matter lists `configs:` with their `data_files:` (split and path, which may be a
glob) over JSON lines. Everything a row says counts: its strings, at any depth, in their order.
"""

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.corpus.sources import Sha256
from stages.errors import UserError
from stages.files import sha256_tree
from stages.settings import Settings


class Benchmark(Settings):
    """A folder of evaluation data, and the tasks of lm-eval that it is the data of."""

    folder: Path = Field(strict=False)
    """The folder with the README.md."""
    sha256: Sha256
    """Digest of the folder, by `stages.files.sha256_tree`: other data is another run of `curate`."""
    splits: tuple[str, ...] = Field(min_length=1)
    """Splits that a model is scored on; those for training may be trained on."""
    tasks: tuple[str, ...]
    """Names of tasks, or patterns with `*`, such as `mmlu_*`."""


class Row(NamedTuple):
    """A row of a benchmark.

    Attributes:
        benchmark: The benchmark's name.
        row: File and line, which counts from 0, such as `high_school_physics/test.jsonl:33`.
        text: Its strings, one a line.
    """

    benchmark: str
    row: str
    text: str


class Checked(Settings):
    """What a benchmark was when documents were checked against it."""

    sha256: str
    """Digest of the folder, by `stages.files.sha256_tree`."""
    tasks: tuple[str, ...]
    """Names of tasks, or patterns."""
    rows: int = Field(ge=0)
    """Rows of the splits that a model is scored on."""
    short_rows: int = Field(ge=0)
    """Rows of fewer words than an n-gram has, which can not be found."""


class Manifest(Settings):
    """Which evaluation data documents were checked against, and how."""

    ngram: int
    """Words of an n-gram; of the longest where chains differ, 0 where nothing was checked."""
    benchmarks: dict[str, Checked]
    """By name."""

    def benchmark_of(self, task: str) -> str | None:
        """Return the first benchmark, by name, that says that it is the data of a task; None if none does.

        One of whose rows none is long enough to be found says nothing.
        """
        found = (name for name, each in sorted(self.benchmarks.items()) if each.rows > each.short_rows)
        return next((name for name in found if _names(self.benchmarks[name].tasks, task)), None)


def read_rows(name: str, benchmark: Benchmark) -> Iterator[Row]:
    """Yield the rows of a benchmark's splits, file by file.

    Raises:
        UserError: The folder is not the pinned one, is not laid out as said above, or has none of the splits.
    """
    _check_pin(name, benchmark)
    paths = _paths(benchmark)
    if not paths:
        splits = ", ".join(benchmark.splits)
        raise UserError(f"Benchmark '{name}': '{benchmark.folder}' has no file of split {splits}. Correct `splits`.")
    for path in paths:
        for number, value in enumerate(_values(path)):
            row = f"{path.relative_to(benchmark.folder).as_posix()}:{number}"
            yield Row(name, row, "\n".join(_strings(value)))


def _check_pin(name: str, benchmark: Benchmark) -> None:
    if not benchmark.folder.is_dir():
        raise UserError(f"Benchmark '{name}': '{benchmark.folder}' is no folder. Fetch its data, or correct `folder`.")
    if (found := sha256_tree(benchmark.folder)) != benchmark.sha256:
        raise UserError(
            f"Benchmark '{name}': '{benchmark.folder}' has the digest {found}, not {benchmark.sha256}. "
            "Bring the pinned data back, or pin these."
        )


def _names(patterns: tuple[str, ...], task: str) -> bool:
    return any(fnmatchcase(task, pattern) for pattern in patterns)


def _paths(benchmark: Benchmark) -> list[Path]:
    found: set[Path] = set()
    for config in _front_matter(benchmark.folder).get("configs", []):
        for files in config["data_files"]:
            if files["split"] in benchmark.splits:
                globs = [files["path"]] if isinstance(files["path"], str) else files["path"]
                found.update(path for glob in globs for path in benchmark.folder.glob(glob))
    return sorted(found)


def _front_matter(folder: Path) -> dict[str, Any]:
    readme = folder / "README.md"
    if not readme.is_file():
        raise UserError(f"'{readme}' is missing. A benchmark's folder has one, whose `configs:` names its files.")
    _, _, rest = readme.read_text(encoding="utf-8").partition("---\n")
    try:
        parsed = YAML(typ="safe").load(rest.partition("\n---")[0])
    except YAMLError as error:
        raise UserError(f"The front matter of '{readme}' is not YAML: {' '.join(str(error).split())}") from error
    return parsed if isinstance(parsed, dict) else {}


def _values(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"'{path}', line {number + 1} is not JSON: {error}. Fetch the file anew.") from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
