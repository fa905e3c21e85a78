"""Gopher's, C4's and FineWeb's filters against datatrove's: `python -m tests.benchmarks.curation_filters [--help]`.

Both judge the same documents of ../shared/data/corpus.tar.gz, by each filter and in a chain, on one core; they take
turns, batch by batch, so that a busy machine slows both alike. Each contest begins with no word known, and goes on
once more with the words known and the texts changed. Verdicts and edited texts must agree, or the figures mean
nothing; the number that do not is printed.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
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
from stages.curation.words import english
from tests.shared import shared

Judge = Callable[[Sequence[Document]], list[tuple[str | None, str]]]
"""Returns the reason, or None, and the text that is left, of each document."""


class Contest(NamedTuple):
    """The same filters, ours and theirs.

    Attributes:
        name: What is judged by.
        ours: In batches.
        theirs: Document by document.
    """

    name: str
    ours: Judge
    theirs: Judge


class Score:
    """Bytes, seconds and disagreements of one contest."""

    def __init__(self) -> None:
        self.bytes = self.disagreements = 0
        self.ours = self.theirs = 0.0

    def add(self, contest: Contest, documents: list[Document]) -> None:
        """Let both judge a batch."""
        seconds, found = [], []
        for judge in (contest.ours, contest.theirs):
            start = time.process_time()
            found.append(judge(documents))
            seconds.append(time.process_time() - start)
        self.ours += seconds[0]
        self.theirs += seconds[1]
        self.bytes += sum(len(document.text.encode()) for document in documents)
        self.disagreements += sum(our != their for our, their in zip(*found, strict=True))

    def line(self, name: str) -> str:
        """Return a row of the table."""
        ours, theirs = (self.bytes / 1e6 / seconds for seconds in (self.ours, self.theirs))
        return f"| {name} | {theirs:.2f} | {ours:.2f} | {ours / theirs:.1f} | {self.disagreements} |"


def main() -> None:
    """Judge, compare and print."""
    chosen = arguments()
    documents = list(corpus(chosen.every, chosen.characters))
    size = sum(len(document.text.encode()) for document in documents) / 1e6
    print(f"{len(documents):,} documents, {size:.1f} MB; MB/s of one core\n")
    print("| filter | datatrove | openbase | times | disagreements |\n|---|---:|---:|---:|---:|")
    for contest in contests()[-1 if chosen.chain else 0 :]:
        english.cache_clear()
        warm_up = [document("warm-up", "The first words take the longest. " * 20)]
        contest.ours(warm_up), contest.theirs(warm_up)
        for score in (Score(), Score()):
            for batch in batches(documents):
                score.add(contest, batch)
            print(score.line(contest.name))
            contest = contest._replace(name=f"{contest.name}, once more")
            documents = [replace(each, text=f"{each.text} .") for each in documents]


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=7, help="take one file of so many (default: %(default)s)")
    parser.add_argument("--characters", type=int, default=100_000, help="cut texts (default: %(default)s)")
    parser.add_argument("--chain", action="store_true", help="only the chain")
    return parser.parse_args()


def corpus(every: int, characters: int) -> Iterator[Document]:
    """Yield one file of `every`, cut to so many characters."""
    root = shared("corpus")
    for path in sorted(path for path in root.rglob("*") if path.is_file())[::every]:
        if text := path.read_text(errors="replace")[:characters]:
            yield document(str(path.relative_to(root)), text)


def document(name: str, text: str) -> Document:
    """Return a document of which only the text matters."""
    return Document(name, text, "web", "corpus", name, "CC0-1.0", "")


def contests() -> list[Contest]:
    """Return each filter by itself, and the chain."""
    pairs: list[tuple[str, Step, BaseFilter]] = [
        ("Gopher repetition", GopherRepetition(step="gopher_repetition").build(), GopherRepetitionFilter()),
        ("Gopher quality", GopherQuality(step="gopher_quality").build(), GopherQualityFilter()),
        ("C4 quality", C4(step="c4").build(), C4QualityFilter()),
        ("FineWeb quality", FineWeb(step="fineweb").build(), FineWebQualityFilter()),
    ]
    ours, theirs = [step for _, step, _ in pairs], [filter_ for _, _, filter_ in pairs]
    single = [Contest(name, our_chain([step]), their_chain([filter_])) for name, step, filter_ in pairs]
    return [*single, Contest("the chain", our_chain(ours), their_chain(theirs))]


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
