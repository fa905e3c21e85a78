"""Speed and memory of export and import: `python -m tests.benchmarks.convert [--rounds N] [--folder FOLDER]`.

A Llama of 373 M weights (1.5 GB in float32, files of 250 MB) is converted both ways, beside a copy of its files and
`transformers`' own `save_pretrained` and `from_pretrained` (with a look at every weight, since it may have mapped the
files). The ways take turns, each in a process of its own; reading is from the page cache, and nothing but our import
waits for the disk: a checkpoint is flushed, and digested. Printed are medians, and by how much the memory of a process
grew over its imports. megatron-bridge is not here: it needs transformers below 5 and Transformer Engine, and does not
install beside this project.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from model.convert import unsplit
from model.convert.config import Ids, model_class, to_config
from model.convert.from_transformers import Import
from model.convert.to_transformers import Export
from model.families.llama import Llama

MODEL = Llama(
    num_layers=16, hidden_size=1280, ffn_hidden_size=3456, num_attention_heads=20, num_query_groups=10, seq_length=2048
)
VOCAB_SIZE = 32_000
SHARD_SIZE = 250_000_000
Action = Callable[[], object]


@contextlib.contextmanager
def make(folder: Path) -> Iterator[Action]:
    """The folder that all others read."""
    model = model_class(MODEL)(to_config(MODEL, Ids(VOCAB_SIZE, 0, 1)))
    yield lambda: model.save_pretrained(folder / "theirs", max_shard_size=SHARD_SIZE)


@contextlib.contextmanager
def copy(folder: Path) -> Iterator[Action]:
    """shutil.copyfile of every file of weights."""
    files = sorted((folder / "theirs").glob("*.safetensors"))
    yield lambda: [shutil.copyfile(file, folder / "made" / file.name) for file in files]


@contextlib.contextmanager
def export_ours(folder: Path) -> Iterator[Action]:
    """A checkpoint to a `transformers` folder."""
    with unsplit.process(num_threads=1):
        weights = Export(folder / "checkpoint", MODEL, VOCAB_SIZE, None, SHARD_SIZE)
        yield lambda: weights.write(folder / "made")


@contextlib.contextmanager
def import_ours(folder: Path) -> Iterator[Action]:
    """A `transformers` folder to a checkpoint."""
    with unsplit.process(num_threads=1):
        weights = Import(folder / "theirs", MODEL, VOCAB_SIZE, None)
        yield lambda: weights.write(folder / "imported", {})


@contextlib.contextmanager
def save_pretrained(folder: Path) -> Iterator[Action]:
    """A model in memory to a folder; the memory is that of the model and the writing."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "theirs")
    for weight in model.parameters():
        weight.data = weight.data.clone()  # none is a mapped file
    yield lambda: model.save_pretrained(folder / "made", max_shard_size=SHARD_SIZE)


@contextlib.contextmanager
def from_pretrained(folder: Path) -> Iterator[Action]:
    """A folder to a model in memory, every weight looked at."""

    def load() -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(folder / "theirs")
        assert all(weight.isfinite().all() for weight in model.parameters())

    yield load


WAYS = {
    "make": make,
    "copy": copy,
    "export": export_ours,
    "save_pretrained": save_pretrained,
    "import": import_ours,
    "from_pretrained": from_pretrained,
}


def main() -> None:
    """Measure every way and print a table, or go one way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.way:
        disable_progress_bar()
        print(json.dumps(measure(chosen.way, chosen.folder)))
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        for way in ("make", "import"):
            run(way, Path(folder))
        (Path(folder) / "imported").rename(Path(folder) / "checkpoint")
        show(folder, chosen.rounds)


def show(folder: str, rounds: int) -> None:
    """Print what every way took."""
    nbytes = sum(file.stat().st_size for file in Path(folder, "theirs").glob("*.safetensors"))
    names = [way for way in WAYS if way != "make"]
    found = [{way: run(way, Path(folder)) for way in names} for _ in range(rounds)]
    print(f"{nbytes / 1e9:.2f} GB; load of the machine {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores")
    copy = statistics.median(some["copy"][0] for some in found)
    for way in names:
        seconds = statistics.median(some[way][0] for some in found)
        grown = statistics.median(some[way][1] for some in found)
        print(
            f"{way:16} {seconds:6.2f} s {nbytes / seconds / 1e9:6.2f} GB/s, {copy / seconds:5.2f} of the copy's, "
            f"memory {grown / 1e9:5.2f} GB"
        )


def run(way: str, folder: Path) -> tuple[float, float]:
    """Go one way in a process of its own, and return what it took: seconds, and bytes of memory."""
    command = [sys.executable, "-m", "tests.benchmarks.convert", "--way", way, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, grown = json.loads(done.stdout.splitlines()[-1])
    return seconds, grown


def measure(way: str, folder: Path) -> tuple[float, float]:
    """Return the seconds that a way takes the second time, and by how many bytes memory grew over the imports.

    Then what is read is in the page cache, and there are pages for what is written: on a virtual machine a page that
    its host must give first costs ten times as much as a copy.
    """
    shutil.rmtree(folder / "imported", ignore_errors=True)
    (folder / "made").mkdir(exist_ok=True)
    before = peak_memory()
    with WAYS[way](folder) as action:
        action()
        started = time.perf_counter()
        action()
        return time.perf_counter() - started, peak_memory() - before


def peak_memory() -> int:
    """Return the most memory that this process had so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
