"""Gopher's, C4's and FineWeb's filters against datatrove's: `python -m tests.benchmarks.curation_filters [--help]`.

Both judge the same documents of ../shared/data/corpus.tar.gz in the same shuffled order, by each filter and in a
chain, on one core. Each contestant of each contest is a new process, so neither knows a word at the beginning: both
remember, spaCy's tokenizer for datatrove and `stages.curation.words` here, how they split a string. They take turns,
in batches as `curate` makes them, so that a busy machine slows both alike. Seconds are of the CPU, without imports and
a first sentence.

The first documents have the most new words, so there is a second line for the last half of the documents. Verdicts and
edited texts must agree, or the figures mean nothing; the number that do not is printed.
"""

import argparse
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from datatrove.data import Document as Datatrove
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter

from stages.corpus.documents import Document, batches
from stages.curation.c4 import C4
from stages.curation.fineweb import FineWeb
from stages.curation.gopher_quality import GopherQuality
from stages.curation.gopher_repetition import GopherRepetition
from stages.curation.step import Step
from tests.shared import shared

FILTERS: dict[str, tuple[GopherRepetition | GopherQuality | C4 | FineWeb, type[BaseFilter]]] = {
    "Gopher repetition": (GopherRepetition(step="gopher_repetition"), GopherRepetitionFilter),
    "Gopher quality": (GopherQuality(step="gopher_quality"), GopherQualityFilter),
    "C4 quality": (C4(step="c4"), C4QualityFilter),
    "FineWeb quality": (FineWeb(step="fineweb"), FineWebQualityFilter),
}
CHAIN = "the chain"

Judge = Callable[[Sequence[Document]], list[tuple[str | None, str]]]
"""Returns the reason, or None, and the text that is left, of each document."""


OURS, THEIRS = "ours", "theirs"


class Turn(NamedTuple):
    """What a contestant made of a batch.

    Attributes:
        seconds: Of the CPU.
        found: Reason and text of each document.
    """

    seconds: float
    found: list[tuple[str | None, str]]


class Round(NamedTuple):
    """A batch that both have judged."""

    bytes: int
    ours: Turn
    theirs: Turn


def main() -> None:
    """Judge, compare and print."""
    chosen = arguments()
    documents = list(corpus(chosen.every, chosen.characters))
    size = sum(len(document.text.encode()) for document in documents) / 1e6
    print(f"{len(documents):,} documents, {size:.1f} MB; MB/s of one core\n")
    print("| filter | datatrove | openbase | times | disagreements |\n|---|---:|---:|---:|---:|", flush=True)
    for name in [CHAIN] if chosen.chain else [*FILTERS, CHAIN]:
        rounds = list(contest(name, documents))
        print(line(name, rounds))
        print(line(f"{name}, the last half", rounds[len(rounds) // 2 :]), flush=True)


def contest(name: str, documents: list[Document]) -> Iterator[Round]:
    """Yield what both make of each batch, each in a process of its own."""
    with ExitStack() as stack:
        context = multiprocessing.get_context("spawn")
        ours, theirs = (stack.enter_context(ProcessPoolExecutor(1, context)) for _ in range(2))
        for batch in batches(documents):
            size = sum(len(document.text.encode()) for document in batch)
            yield Round(
                size, ours.submit(judge, OURS, name, batch).result(), theirs.submit(judge, THEIRS, name, batch).result()
            )


def line(name: str, rounds: Sequence[Round]) -> str:
    """Return a row of the table."""
    size = sum(each.bytes for each in rounds) / 1e6
    ours, theirs = size / sum(each.ours.seconds for each in rounds), size / sum(each.theirs.seconds for each in rounds)
    pairs = [pair for each in rounds for pair in zip(each.ours.found, each.theirs.found, strict=True)]
    disagreements = sum(our != their for our, their in pairs)
    return f"| {name} | {theirs:.2f} | {ours:.2f} | {ours / theirs:.1f} | {disagreements} |"


def judge(side: str, name: str, documents: Sequence[Document]) -> Turn:
    """Judge a batch, in a contestant's process."""
    contestant = built(side, name)
    start = time.process_time()
    found = contestant(documents)
    return Turn(time.process_time() - start, found)


@cache
def built(side: str, name: str) -> Judge:
    """Return a contestant that is past its first sentence."""
    pairs = list(FILTERS.values()) if name == CHAIN else [FILTERS[name]]
    if side == OURS:
        contestant = our_chain([settings.build() for settings, _ in pairs])
    else:
        contestant = their_chain([theirs() for _, theirs in pairs])
    contestant([document("warm-up", "The first words take the longest. " * 20)])
    return contestant


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=7, help="take one file of so many (default: %(default)s)")
    parser.add_argument("--characters", type=int, default=100_000, help="cut texts (default: %(default)s)")
    parser.add_argument("--chain", action="store_true", help="only the chain")
    return parser.parse_args()


def corpus(every: int, characters: int) -> Iterator[Document]:
    """Yield one file of `every`, cut to so many characters, in an order by chance that is always the same."""
    root = shared("corpus")
    paths = sorted(path for path in root.rglob("*") if path.is_file())[::every]
    random.Random(0).shuffle(paths)
    for path in paths:
        if text := path.read_text(errors="replace")[:characters]:
            yield document(str(path.relative_to(root)), text)


def document(name: str, text: str) -> Document:
    """Return a document of which only the text matters."""
    return Document(name, text, "web", "corpus", name, "CC0-1.0", "")


def our_chain(steps: Sequence[Step]) -> Judge:
    """Return steps, one after the other, each on what the earlier ones left."""

    def judge(documents: Sequence[Document]) -> list[tuple[str | None, str]]:
        found: list[tuple[str | None, str]] = [(None, document.text) for document in documents]
        for step in steps:
            left = [index for index, (reason, _) in enumerate(found) if reason is None]
            verdicts = step([replace(documents[index], text=found[index][1]) for index in left])
            for index, verdict in zip(left, verdicts, strict=True):
                found[index] = verdict.reason, found[index][1] if verdict.text is None else verdict.text
        return found

    return judge


def their_chain(filters: Sequence[BaseFilter]) -> Judge:
    """Return datatrove's filters, one document after the other, as in its pipelines."""

    def judge_one(text: str) -> tuple[str | None, str]:
        document = Datatrove(text=text, id="")
        for each in filters:
            verdict = each.filter(document)
            if verdict is not True:
                return verdict[1], document.text
        return None, document.text

    return lambda documents: [judge_one(document.text) for document in documents]


if __name__ == "__main__":
    main()
