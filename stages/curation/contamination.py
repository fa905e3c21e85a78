"""Decontamination: what shares a word n-gram with evaluation data is dropped, cut out, or tagged.

The rule is that of GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C): a 13-gram in common, words in lower case
without punctuation; it cuts 200 characters around the passage as well, and drops what falls into over 10 pieces.
What is found, it says by tags: the plain `contaminated`, and one for each row, which `Finding` reads back.

A row that is shorter than an n-gram can not be found, nor one that was translated or paraphrased.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from stages.curation.benchmarks import Benchmark, Checked, Manifest, read_rows
from stages.curation.step import KEEP, Step, Verdict, each_text
from stages.settings import Settings

if TYPE_CHECKING:  # numpy takes too long to import for a check of params.yaml
    from stages.curation.chain import Chain
    from stages.curation.overlap import Index, Passage

STEP = "contamination"
CONTAMINATED = "contaminated"
_SHOWN_CHARACTERS = 200


class Finding(NamedTuple):
    """A passage of a document that is in a row of evaluation data.

    Attributes:
        benchmark: The benchmark's name.
        row: File and line of the row, as in `stages.curation.benchmarks.Row`.
        passage: The beginning of the passage as the document has it, white space collapsed.
    """

    benchmark: str
    row: str
    passage: str

    def tag(self) -> str:
        """Return the tag that says it."""
        return "|".join((CONTAMINATED, *self))

    @classmethod
    def of(cls, tags: Sequence[str]) -> list["Finding"]:
        """Return the findings that a document's tags say, in order; other tags are passed over."""
        return [cls(*tag.split("|", 3)[1:]) for tag in tags if tag.startswith(f"{CONTAMINATED}|")]


class Contamination(Settings):
    """Drop, cut or tag what shares an n-gram with evaluation data."""

    step: Literal["contamination"]
    """Picks this step."""
    benchmarks: dict[str, Benchmark]
    """Evaluation data by name."""
    ngram: int = Field(ge=5)
    """Words of an n-gram (GPT-3: 13)."""
    action: Literal["drop", "cut", "tag"]
    """`cut` takes the passages out and leaves a blank line for each, `tag` changes nothing."""
    margin: int = Field(ge=0)
    """Characters that `cut` takes on either side of a passage as well (GPT-3: 200)."""
    max_cuts: int = Field(ge=0)
    """More passages than this, and `cut` drops the document (GPT-3: 10)."""

    def build(self) -> Step:
        """Return the step; it reads all evaluation data.

        Raises:
            UserError: A benchmark's folder is not the pinned one, or not as it should be.
        """
        index = _index(tuple(self.benchmarks.items()), self.ngram)
        return each_text(lambda text: self._judge(index, text))

    def _judge(self, index: "Index", text: str) -> Verdict:
        passages = index.passages(text)
        if not passages:
            return KEEP
        numbers = {
            "ngrams": sum(passage.ngrams for passage in passages),
            "passages": len(passages),
            "rows": len({row for passage in passages for row in passage.rows}),
        }
        tags = (CONTAMINATED, *(finding.tag() for finding in _findings(index, text, passages)))
        if self.action == "tag":
            return Verdict(numbers=numbers, tags=tags)
        kept = None if self.action == "drop" or len(passages) > self.max_cuts else self._cut(index, text, passages)
        return Verdict(None if kept else CONTAMINATED, numbers, kept or None, tags)

    def _cut(self, index: "Index", text: str, passages: "list[Passage]") -> str:
        while passages:  # the ends of two pieces may be an n-gram of a row again
            pieces, start = [], 0
            for passage in passages:
                pieces.append(text[start : max(start, passage.start - self.margin)])
                start = passage.end + self.margin
            pieces.append(text[start:])
            text = "\n\n".join(stripped for piece in pieces if (stripped := piece.strip()))
            passages = index.passages(text)
        return text


def coverage(chains: Iterable["Chain"]) -> Manifest:
    """Return the evaluation data that every chain checks its documents against, with the same settings.

    What only some chains check does not count: documents of the others may hold it. Nor does what is checked before
    texts are repaired: they may hold it afterwards. It does not matter what a chain does to what it finds; `Finding`
    tells that of each document.

    Raises:
        UserError: As `Contamination.build`.
    """
    steps = [list(_last_checks(chain)) for chain in chains]
    checked = [{item for step in own for item in step.benchmarks.items()} for own in steps]
    common = sorted(set.intersection(*checked), key=lambda item: item[0]) if checked else []
    return _manifest(dict(common), max(step.ngram for own in steps for step in own) if common else 0)


def _last_checks(chain: "Chain") -> Iterator[Contamination]:
    repairs = [position for position, step in enumerate(chain.steps) if step.step == "unicode"]
    for step in chain.steps[max(repairs, default=0) :]:
        if isinstance(step, Contamination):
            yield step


def _manifest(benchmarks: dict[str, Benchmark], ngram: int) -> Manifest:
    if not benchmarks:
        return Manifest(ngram=0, benchmarks={})
    index = _index(tuple(benchmarks.items()), ngram)
    rows = Counter(name for name, _ in index.names)
    short = Counter(index.names[number][0] for number in index.short)
    checked = {
        name: Checked(sha256=benchmark.sha256, tasks=benchmark.tasks, rows=rows[name], short_rows=short[name])
        for name, benchmark in benchmarks.items()
    }
    return Manifest(ngram=ngram, benchmarks=checked)


def _findings(index: "Index", text: str, passages: "list[Passage]") -> Iterator[Finding]:
    """Yield each row once, with the first passage of it."""
    first: dict[int, Passage] = {}
    for passage in passages:
        for row in passage.rows:
            first.setdefault(row, passage)
    for row, passage in first.items():
        shown = text[passage.start : min(passage.end, passage.start + _SHOWN_CHARACTERS)]
        yield Finding(*index.names[row], " ".join(shown.split()))


@cache
def _index(benchmarks: tuple[tuple[str, Benchmark], ...], ngram: int) -> "Index":
    from stages.curation.overlap import Index

    return Index((row for name, benchmark in benchmarks for row in read_rows(name, benchmark)), ngram)
