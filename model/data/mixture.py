"""What the mixture of a run was asked to be, and what it became, in tokens. Imports no torch."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.data.token_set import TokenSet
from model.job import Job

Integers = NDArray[np.int64]
Row = dict[str, Any]


class _Pieces(NamedTuple):
    """Pieces of documents of one domain, `[n]` each: a part of the record."""

    step: Integers
    document: Integers
    start: Integers
    end: Integers


class _Domain:
    """Counts what was trained on of a domain, by phase and document.

    Args:
        sidecar: Of its training shard.
        phases: How many the run has.
    """

    def __init__(self, sidecar: Path, phases: int) -> None:
        names = ["source", "license"]
        table = pq.read_table(sidecar, columns=["tokens", *names], read_dictionary=names).unify_dictionaries()
        lengths = table["tokens"].to_numpy()
        self._begins = np.cumsum(lengths) - lengths
        self._columns: dict[str, pa.DictionaryArray] = {name: table[name].combine_chunks() for name in names}
        self._by_document = np.zeros(len(lengths), np.int64)
        self.tokens = int(lengths.sum())
        """Tokens of the shard."""
        self.got = np.zeros(phases, np.int64)
        """Tokens trained on by phase, each as often as it was."""
        self.seen = [TokenSet() for _ in range(phases)]
        """Which tokens those were, by phase."""

    def add(self, phase: Integers, pieces: _Pieces) -> None:
        """Count pieces, each of a phase."""
        lengths, begins = pieces.end - pieces.start, self._begins[pieces.document]
        np.add.at(self.got, phase, lengths)
        np.add.at(self._by_document, pieces.document, lengths)
        for index in np.unique(phase).tolist():
            of = phase == index
            self.seen[index].add((begins + pieces.start)[of], (begins + pieces.end)[of])

    def got_by(self, column: str) -> dict[str, int]:
        """Return the tokens trained on of each source, or of each license."""
        values = self._columns[column]
        counts = np.zeros(len(values.dictionary), np.int64)
        np.add.at(counts, values.indices.to_numpy(), self._by_document)
        return dict(zip(values.dictionary.to_pylist(), counts.tolist(), strict=True))


def read(job: Job, record: Path, sidecars: Path) -> dict[str, Any]:
    """Return what was asked of each domain and what was got, and what was got of each source and license.

    `domains` has a row for each domain of each phase, and one for each domain of the whole run, whose `phase` is None:
    shares and tokens asked for and got, the difference of the tokens, how many different ones were among them
    (`unique_tokens`), and epochs: tokens got over those of the domain's shard. A phase is made of whole steps and these
    of whole samples, so a little more or less is got than was asked for. What guards left out is lacking. Of a run that
    branches from a checkpoint is asked what was left to do. Memory is about that of the sidecars, as `TokenSet` says.

    Args:
        job: The phases.
        record: The Parquet file that `model.data.record.write_record` wrote.
        sidecars: Folder of the training shards' sidecars.
    """
    phases = job.plan.phases
    domains = {name: _Domain(sidecars / f"{name}.parquet", len(phases)) for name in job.pretrain.domains}
    last_steps = np.array([phase.last_step for phase in phases])
    first_step = job.plan.steps
    for name, pieces in _pieces(record):
        domains[name].add(np.searchsorted(last_steps, pieces.step), pieces)
        first_step = min(first_step, int(pieces.step.min()))
    asked = [_asked(job, index, first_step) for index in range(len(phases))]
    return {
        "domains": [*_rows_of_phases(job, domains, asked), *_rows_of_run(domains, asked)],
        "sources": _got_by("source", domains),
        "licenses": _got_by("license", domains),
    }


def _pieces(record: Path) -> Iterator[tuple[str, _Pieces]]:
    """Yield the pieces of each domain of each row group of a record."""
    file = pq.ParquetFile(record, read_dictionary=["domain"])
    for group in range(file.num_row_groups):
        table = file.read_row_group(group).unify_dictionaries()
        domain = table["domain"].combine_chunks()
        columns = [table[name].to_numpy().astype(np.int64) for name in _Pieces._fields]
        for index, name in enumerate(domain.dictionary.to_pylist()):
            of = domain.indices.to_numpy() == index
            if of.any():
                yield name, _Pieces(*(column[of] for column in columns))


def _asked(job: Job, index: int, first_step: int) -> dict[str, int]:
    """Return the tokens asked of each domain in a phase of a run whose log begins with a step."""
    settings, phase = list(job.pretrain.phases.values())[index], job.plan.phases[index]
    start = job.pretrain.start
    if start is None or start.kind != "checkpoint" or first_step <= phase.first_step:
        return settings.tokens_by_domain
    samples = phase.samples if first_step > phase.last_step else job.plan.at(first_step).first_sample
    left = max(0, settings.total_tokens - samples * phase.seq_length)
    return {domain: round(share * left) for domain, share in phase.blend.items()}


def _rows_of_phases(job: Job, domains: Mapping[str, _Domain], asked: list[dict[str, int]]) -> Iterator[Row]:
    for index, phase in enumerate(job.plan.phases):
        got = {name: int(domains[name].got[index]) for name in asked[index]}
        for name in sorted(got):
            row = _row(name, asked[index], got, len(domains[name].seen[index]), domains[name].tokens)
            yield {"phase": phase.name, "part": f"{phase.name}: {name}", **row}


def _rows_of_run(domains: Mapping[str, _Domain], asked: list[dict[str, int]]) -> Iterator[Row]:
    of_run = {name: sum(phase.get(name, 0) for phase in asked) for name in domains}
    got = {name: int(domain.got.sum()) for name, domain in domains.items()}
    for name, domain in domains.items():
        seen = TokenSet()
        for each in domain.seen:
            seen.update(each)
        yield {"phase": None, "part": name, **_row(name, of_run, got, len(seen), domain.tokens)}


def _row(name: str, asked: Mapping[str, int], got: Mapping[str, int], unique: int, available: int) -> Row:
    """Return a row of a domain, with its shares among the domains."""
    return {
        "domain": name,
        "asked_share": _share(asked, name),
        "asked_tokens": asked[name],
        "got_share": _share(got, name),
        "got_tokens": got[name],
        "difference": got[name] - asked[name],
        "unique_tokens": unique,
        "epochs": got[name] / available,
    }


def _share(tokens: Mapping[str, int], name: str) -> float:
    total = sum(tokens.values())
    return tokens[name] / total if total else 0.0


def _got_by(column: str, domains: Mapping[str, _Domain]) -> dict[str, dict[str, float]]:
    """Return tokens trained on and their share of all, by source or license."""
    tokens: dict[str, int] = {}
    for domain in domains.values():
        for name, count in domain.got_by(column).items():
            tokens[name] = tokens.get(name, 0) + count
    return {name: {"tokens": tokens[name], "share": _share(tokens, name)} for name in sorted(tokens)}
