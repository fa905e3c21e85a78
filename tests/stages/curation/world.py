"""Documents, chains and parts for the tests of curation."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from stages.corpus.documents import Document, ShardWriter, document_id, text_digest
from stages.curation.benchmarks import Benchmark
from stages.curation.chain import Chain
from stages.curation.parts import Part
from stages.files import read_jsonl, sha256_file, sha256_tree
from tests.shared import shared


def document(text: str, origin: str = "a", domain: str = "prose", source: str = "s") -> Document:
    sha256 = text_digest(text)
    return Document(document_id(source, origin, sha256), text, domain, source, origin, "MIT", sha256)


def chain(*steps: dict[str, object], drop_tags: tuple[str, ...] = ()) -> Chain:
    return Chain.model_validate({"steps": steps, "drop_tags": drop_tags})


def write_parts(
    folder: Path, sources: Mapping[str, Iterable[str]], steps: Chain, shard_bytes: int = 1 << 25
) -> list[Part]:
    """Write the texts of sources as a snapshot would, and return its parts in order."""
    parts = []
    for source, texts in sorted(sources.items()):
        with ShardWriter(folder, source, shard_bytes) as writer:
            for number, text in enumerate(texts):
                writer.add(document(text, f"{number:05d}", "prose", source))
        parts += [Part(path, sha256_file(path), "prose", steps) for path in sorted(folder.glob(f"{source}-*"))]
    return parts


def pinned(folder: Path, splits: tuple[str, ...], tasks: tuple[str, ...] = ()) -> Benchmark:
    """Return a folder of evaluation data as it is now."""
    return Benchmark(folder=folder, sha256=sha256_tree(folder), splits=splits, tasks=tasks)


def versions(count: int) -> dict[str, list[str]]:
    """Return versions of PEPs in two sources, every tenth twice, and unrelated ones."""
    rows = list(read_jsonl(shared("curation") / "neardup" / "peps_pairs.jsonl"))
    chosen = rows[:: len(rows) // count]
    newer = [row["b"] for row in chosen]
    return {"new": newer + newer[::10], "old": [row["a"] for row in chosen if row["kind"] == "versions"]}
