"""Deduplicate, filter and split the snapshot: `python -m stages.curate`.

Reads out/snapshot/documents/. Writes to out/curate/:

- documents/{train,validation,test}/<domain>-<00000>.parquet: the kept documents, same columns as the snapshot's
- report.json: documents and bytes kept by split, domain, source and license, and dropped by reason
- dropped.jsonl: for each reason, a sample of the documents that were dropped
- metrics.json: the report's totals
- plots/drop_reasons.json: dropped documents by reason
"""

from pathlib import Path

from pydantic import Field, model_validator

from stages.corpus.sources import Name
from stages.files import OUT, output, write_json, write_jsonl
from stages.runner import run
from stages.settings import Settings, load


class Length(Settings):
    """Thresholds of `filters.length`."""

    min_characters: int = Field(ge=0)
    """A shorter text is dropped."""
    max_characters: int = Field(gt=0)
    """A longer text is dropped."""


class LineLength(Settings):
    """Thresholds of `filters.line_length`."""

    max_mean: float = Field(gt=0)
    """Mean characters a line."""
    max_longest: int = Field(gt=0)
    """Characters of the longest line."""


class MinFraction(Settings):
    """Threshold of `filters.alphanumeric`."""

    min_fraction: float = Field(ge=0, le=1)
    """A smaller fraction drops the text."""


class MaxFraction(Settings):
    """Threshold of `filters.unprintable` (of the characters) and `filters.repeated_lines` (of the lines)."""

    max_fraction: float = Field(ge=0, le=1)
    """A larger fraction drops the text."""


class Generated(Settings):
    """Threshold of `filters.generated`."""

    first_lines: int = Field(gt=0)
    """How many lines are searched for the words of a generator."""


class WordLength(Settings):
    """Thresholds of `filters.word_length`."""

    min_mean: float = Field(ge=0)
    """Mean characters a word, at least."""
    max_mean: float = Field(gt=0)
    """Mean characters a word, at most."""


class StopWords(Settings):
    """Threshold of `filters.stop_words`."""

    min_distinct: int = Field(ge=0, le=8)
    """How many of the eight words a text has at least."""


class EncodedData(Settings):
    """Thresholds of `filters.encoded_data`."""

    max_run: int = Field(gt=0)
    """Characters of the longest encoded run."""
    max_fraction: float = Field(ge=0, le=1)
    """Encoded characters in all."""


class Filters(Settings):
    """The filters of one domain; one that is absent does not run. `stages.corpus.filters` has what they do."""

    length: Length | None = None
    """Characters of the text."""
    line_length: LineLength | None = None
    """Characters of its lines."""
    alphanumeric: MinFraction | None = None
    """Fraction of letters and digits."""
    generated: Generated | None = None
    """Marks of a generator in the first lines."""
    unprintable: MaxFraction | None = None
    """Fraction of control and replacement characters."""
    repeated_lines: MaxFraction | None = None
    """Fraction of lines that repeat an earlier one."""
    word_length: WordLength | None = None
    """Mean word length of prose."""
    stop_words: StopWords | None = None
    """Frequent words of English prose."""
    encoded_data: EncodedData | None = None
    """Base64, hexadecimal and escaped data."""


class Split(Settings):
    """Which fractions of the texts are held out."""

    validation: float = Field(gt=0, lt=1)
    """Fraction for validation while training."""
    test: float = Field(gt=0, lt=1)
    """Fraction for evaluation."""
    seed: int = Field(ge=0)
    """Another seed, another split."""

    @model_validator(mode="after")
    def _leaves_train(self) -> "Split":
        if self.validation + self.test >= 1:
            raise ValueError("validation + test leaves nothing to train on; together they are less than 1")
        return self


class CurateSettings(Settings):
    """Section `curate` of params.yaml."""

    filters: dict[Name, Filters]
    """Filters by domain; every domain of the snapshot has an entry."""
    dropped_sample: int = Field(gt=0)
    """Dropped documents listed for each reason, at most."""
    split: Split
    """The held-out fractions."""


def main() -> None:
    """Curate the snapshot."""
    settings = load("curate", CurateSettings)
    from stages.corpus.curation import Rejects, keep, write_splits
    from stages.corpus.documents import read, shard_paths

    paths = shard_paths(OUT / "snapshot" / "documents", "snapshot")
    filters = {domain: each.model_dump(exclude_none=True) for domain, each in settings.filters.items()}
    rejects = Rejects(settings.dropped_sample)
    with output("curate") as folder:
        documents = keep(read(paths), filters, rejects)
        split = settings.split
        kept = write_splits(documents, split.validation, split.test, split.seed, folder / "documents")
        write_jsonl(folder / "dropped.jsonl", rejects.sample())
        write_json(folder / "report.json", {"kept": kept.report(), "dropped": rejects.reasons.by_group()})
        metrics = {"kept": kept.total.total(), "dropped": rejects.reasons.total(), "splits": kept.total.by_group()}
        write_json(folder / "metrics.json", metrics)
        _write_plot(folder / "plots" / "drop_reasons.json", rejects.reasons.documents())
    print(f"curate: kept {metrics['kept']['documents']:,} documents, dropped {metrics['dropped']['documents']:,}")


def _write_plot(path: Path, reasons: dict[str, int]) -> None:
    """Write one row a reason, the most frequent first."""
    order = sorted(reasons, key=lambda reason: (-reasons[reason], reason))
    write_json(path, [{"reason": reason, "documents": reasons[reason]} for reason in order])


if __name__ == "__main__":
    run(__file__, main)
