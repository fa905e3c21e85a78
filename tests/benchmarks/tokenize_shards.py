"""Tokenising to shards against two peers: `python -m tests.benchmarks.tokenize_shards [--help]`.

All three make a `.bin/.idx` pair of the same documents of ../shared/data/corpus.tar.gz, with the same tokenizer.json,
on one core; they take turns, file by file, so that a busy machine slows all alike. Seconds are of the CPU. The
tokens must agree, or the figures mean nothing. The peers:

- `encode_batch`: tokenizers' own, and no file is written at all
- `megatron`: the loop of Megatron-LM's tools/preprocess_data.py, which is not in the wheel: workers, processes of a
  pool, parse a line of JSON and tokenise it; the parent makes a tensor of each document for IndexedDatasetBuilder.
  Here both are in one process, which spares it the pool's pickling
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from tokenizers import Tokenizer

from stages.corpus import bpe, encoder
from stages.corpus.documents import Document, ShardWriter, document_id, read, text_digest
from stages.corpus.tokenise import TOKENS, Tokenise
from stages.files import read_jsonl, sha256_file, write_jsonl
from tests.shared import shared

Contestant = Callable[[Path, Path], int]
"""Tokenises a file of documents, may write to a folder, and returns the number of tokens."""


def main() -> None:
    """Print MB/s a core of each, and ratios."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.tokenize_shards", description=__doc__)
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--sample", type=int, default=8, help="every how manieth document")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ShardWriter(folder / "documents", "all", 1 << 20) as writer:
            for document in _documents(arguments.sample):
                writer.add(document)
        paths = sorted((folder / "documents").glob("*"))
        for path in paths:
            write_jsonl(path.with_suffix(".jsonl"), ({"text": document.text} for document in read([path])))
        bpe.train((document.text for document in read(paths)), arguments.vocab_size).save(str(folder / "it.json"))
        _contest(paths, folder)


def _documents(step: int) -> Iterator[Document]:
    for path in sorted(path for path in shared("corpus").rglob("*") if path.is_file())[::step]:
        text = path.read_bytes().decode(errors="replace")
        digest = text_digest(text)
        yield Document(document_id("s", path.name, digest), text, "all", "s", path.name, "MIT", digest)


def _contest(paths: list[Path], folder: Path) -> None:
    tokenizer = folder / "it.json"
    loaded, sha256 = bpe.load(tokenizer), sha256_file(tokenizer)
    start = time.process_time()
    assert encoder.load(tokenizer, sha256).fast
    print(f"once a process: {time.process_time() - start:.2f} s for the proof, which the figures leave out")
    contestants: dict[str, Contestant] = {
        "shards": lambda path, target: _ours(Tokenise(path, tokenizer, sha256), target),
        "encode_batch": lambda path, _: _encode_batch(loaded, path),
        "megatron": lambda path, target: _megatron(loaded, path, target),
    }
    seconds, tokens = dict.fromkeys(contestants, 0.0), dict.fromkeys(contestants, 0)
    for path in paths:
        for name, contestant in contestants.items():
            target = folder / name / path.stem
            target.mkdir(parents=True)
            start = time.process_time()
            tokens[name] += contestant(path, target)
            seconds[name] += time.process_time() - start
        assert (folder / "shards" / path.stem / TOKENS).read_bytes() == (
            folder / "megatron" / path.stem / "it.bin"
        ).read_bytes()
    assert len(set(tokens.values())) == 1
    megabytes = sum(len(document.text.encode()) for document in read(paths)) / 1e6
    print(f"{megabytes:.1f} MB, {tokens['shards']:,} tokens of {loaded.get_vocab_size():,}")
    for name, spent in seconds.items():
        print(f"{name:>12}: {megabytes / spent:6.2f} MB/s a core, shards are {spent / seconds['shards']:5.1f} x")


def _ours(piece: Tokenise, folder: Path) -> int:
    piece(folder)
    return (folder / TOKENS).stat().st_size // 2


def _encode_batch(tokenizer: Tokenizer, path: Path) -> int:
    texts = [document.text for document in read([path])]
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    return sum(len(encoding.ids) + 1 for encoding in encodings)


def _megatron(tokenizer: Tokenizer, path: Path, folder: Path) -> int:
    end = tokenizer.token_to_id(bpe.END_OF_DOCUMENT)
    builder = IndexedDatasetBuilder(str(folder / "it.bin"), dtype=np.uint16)
    count = 0
    for row in read_jsonl(path.with_suffix(".jsonl")):
        ids = [*tokenizer.encode(row["text"], add_special_tokens=False).ids, end]
        builder.add_document(torch.IntTensor(ids), [len(ids)])
        count += len(ids)
    builder.finalize(str(folder / "it.idx"))
    return count


if __name__ == "__main__":
    main()
