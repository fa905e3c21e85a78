"""Time and memory of the data stages as the corpus grows: `python -m tests.benchmarks.data_scale --folder FOLDER`.

Makes a corpus of each size from real text, repeated: ../shared/data/corpus.tar.gz where it is, else the standard
library. In each repetition a tenth of the documents has one word in a hundred replaced, which makes near-duplicates,
and the others every second word, by words of other documents. Each stage then takes all of it, in one process that
does nothing else: `snapshot` as Parquet files, `curate` by the chain of params.yaml, `shards` with a tokenizer of its
own. Printed are time, peak memory and what became of documents; and of each size but the first, memory and time a byte
by those of the first. Corpora, and what each stage took (taken-<stage>-<MB>.json), stay in the folder.
"""

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from stages.corpus import bpe, files
from stages.corpus.documents import Document, ShardWriter, document_id, read, text_digest
from stages.corpus.gate import Record, admit
from stages.corpus.sources import FilesSource
from stages.corpus.tokenise import write_shards
from stages.curation import trail
from stages.curation.chain import Chain
from stages.curation.curator import curate
from stages.curation.engine import Local, started
from stages.curation.minhash import Deduplication, MinHash
from stages.curation.parts import Part
from stages.curation.split import Split
from stages.files import read_json, sha256_file, write_json
from stages.settings import read_yaml
from tests.shared import shared

DOCUMENT_CHARACTERS = 20_000
NEAR = 0.1
REPLACED_IN_NEAR, REPLACED_IN_OTHERS = 0.01, 0.5
DOMAIN, LICENSE = "prose", "CC0-1.0"


def texts() -> list[str]:
    """Return real texts of at most `DOCUMENT_CHARACTERS` characters; longer files are cut between lines."""
    try:
        root = shared("corpus")
    except pytest.skip.Exception:
        root = Path(sysconfig.get_path("stdlib"))
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size < 1 << 21):
        try:
            found += list(_pieces(path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    return found


def _pieces(text: str) -> Iterator[str]:
    lines: list[str] = []
    length = 0
    for line in text.splitlines(keepends=True):
        lines.append(line)
        length += len(line)
        if length >= DOCUMENT_CHARACTERS:
            yield "".join(lines)
            lines, length = [], 0
    yield "".join(lines)


def perturbed(text: str, words: list[str], fraction: float, chance: random.Random) -> str:
    """Return the text with a fraction of its words replaced by random ones."""
    found = text.split(" ")
    for at in range(len(found)):
        if chance.random() < fraction:
            found[at] = words[int(chance.random() * len(words))]
    return " ".join(found)


def make(megabytes: int, folder: Path) -> None:
    """Write the snapshot."""
    real, chance = texts(), random.Random(0)
    words = sorted({word for text in real[::50] for word in text.split()})
    left, repetition = megabytes * 10**6, 0
    with ShardWriter(folder, DOMAIN) as writer:
        while left > 0:
            for number, text in enumerate(real):
                near = chance.random() < NEAR
                fraction = REPLACED_IN_NEAR if near else REPLACED_IN_OTHERS
                changed = perturbed(text, words, fraction if repetition else 0, chance)
                writer.add(_document(changed, f"{repetition:05d}/{number:07d}"))
                left -= len(changed.encode())
                if left <= 0:
                    break
            repetition += 1


def _document(text: str, origin: str) -> Document:
    sha256 = text_digest(text)
    return Document(document_id(DOMAIN, origin, sha256), text, DOMAIN, DOMAIN, origin, LICENSE, sha256)


def take_snapshot(corpus: Path, out: Path, _workers: int) -> dict[str, int]:
    """Read Parquet files as a source, gate, digest and write them."""
    source = FilesSource(kind="files", root=str(corpus), domain=DOMAIN, license=LICENSE)
    record = Record(lambda _: None)
    with ShardWriter(out, DOMAIN) as writer:
        for document in admit(DOMAIN, source, files.read(source).candidates, frozenset({LICENSE}), 1 << 25, record):
            writer.add(document)
    return {"admitted": int(record.admitted.total()["documents"])}


def take_curate(corpus: Path, out: Path, workers: int) -> dict[str, int]:
    """Put the documents through their chain, deduplicate and split them."""
    chain = Chain.model_validate_json(json.dumps(read_yaml(Path("params.yaml"))["curate"]["chains"][DOMAIN]))
    duplicates = Deduplication(near=MinHash(ngram=5, bands=14, rows=8, min_agreement=0.7, seed=0), survivor="first")
    parts = [Part(path, sha256_file(path), DOMAIN, chain) for path in sorted(corpus.glob("*.parquet"))]
    with started(Local(kind="local", workers=workers)) as pool:
        curate(parts, duplicates, Split(validation=0.02, test=0.05, seed=0), pool, out / "scratch", out / "curated")
    reasons: Counter[str] = Counter()
    for row in trail.fates(sorted((out / "curated" / "trail").iterdir())):
        reasons[row["reason"] or "kept"] += row["documents"]
    return dict(sorted(reasons.items()))


def take_shards(corpus: Path, out: Path, workers: int) -> dict[str, int]:
    """Tokenise the documents."""
    paths = sorted(corpus.glob("*.parquet"))
    out.mkdir()
    bpe.train((document.text for document in islice(read(paths), 200)), 4096).save(str(out / "tokenizer.json"))
    with started(Local(kind="local", workers=workers)) as pool:
        entries = write_shards({out / DOMAIN: paths}, out / "tokenizer.json", pool, out / "scratch")
    return {"tokenised": int(entries[out / DOMAIN]["documents"])}


STAGES: dict[str, Callable[[Path, Path, int], dict[str, int]]] = {
    "snapshot": take_snapshot,
    "curate": take_curate,
    "shards": take_shards,
}


def measure(stage: str, megabytes: int, folder: Path, workers: int) -> None:
    """Let a stage take a corpus, and write what it took."""
    begin = time.perf_counter()
    documents = STAGES[stage](_corpus(folder, megabytes), folder / "out", workers)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    taken = {
        "megabytes": megabytes,
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": sum(each.ru_utime + each.ru_stime for each in used),
        "peak_megabytes": max(each.ru_maxrss for each in used) / 1024,
        "documents": documents,
    }
    write_json(_result(folder, stage, megabytes), taken)


def main() -> None:
    """Measure each stage and size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        measure(chosen.stages[0], chosen.megabytes[0], chosen.folder, chosen.workers)
        return
    print("   stage      MB   MB/s  MB/s of CPU  peak MB  documents")
    for stage in chosen.stages:
        every = []
        for megabytes in chosen.megabytes:
            every.append(_taken(stage, megabytes, chosen.folder, chosen.workers))
            print(f"{stage:>8}{_line(every[-1])}", flush=True)
        for taken in every[1:]:
            print(f"{stage:>8}{_ratios(every[0], taken)}", flush=True)


def _corpus(folder: Path, megabytes: int) -> Path:
    return folder / f"snapshot-{megabytes}"


def _result(folder: Path, stage: str, megabytes: int) -> Path:
    return folder / f"taken-{stage}-{megabytes}.json"


def _taken(stage: str, megabytes: int, folder: Path, workers: int) -> dict[str, Any]:
    """Return what a process of its own takes for a corpus of a size, which is made if it is not there."""
    if not _corpus(folder, megabytes).exists():
        make(megabytes, _corpus(folder, megabytes))
    shutil.rmtree(folder / "out", ignore_errors=True)
    again = [sys.executable, "-m", "tests.benchmarks.data_scale", "--measure", "--stages", stage]
    sizes = ["--megabytes", str(megabytes), "--workers", str(workers)]
    subprocess.run([*again, *sizes, "--folder", str(folder)], check=True)
    taken: dict[str, Any] = read_json(_result(folder, stage, megabytes))
    return taken


def _line(taken: dict[str, Any]) -> str:
    rates = [taken["megabytes"] / taken[clock] for clock in ("seconds", "cpu_seconds")]
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in taken["documents"].items())
    return f"{taken['megabytes']:8.0f}{rates[0]:7.1f}{rates[1]:13.1f}{taken['peak_megabytes']:9.0f}  {reasons}"


def _ratios(first: dict[str, Any], taken: dict[str, Any]) -> str:
    """Return by what a size's memory and time differ from the first size's; 1 is flat memory, and linear time."""
    times = {key: taken[key] / first[key] for key in ("megabytes", "seconds", "cpu_seconds", "peak_megabytes")}
    return (
        f"{times['megabytes']:8.0f} times the data: {times['peak_megabytes']:.2f} times the memory; a byte takes "
        f"{times['cpu_seconds'] / times['megabytes']:.2f} times the CPU, "
        f"{times['seconds'] / times['megabytes']:.2f} times the time"
    )


if __name__ == "__main__":
    main()
