from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.data import mixture
from model.data import record as data_record
from model.data.record import write_record
from model.job import Job
from tests.model import numbered

LICENSES = ("MIT", "CC0-1.0", "Apache-2.0")
MAIN = numbered.phase(tokens=2400)
ANNEAL: dict[str, Any] = {"targets": {"code": 40, "prose": 400}, "global_batch_size": 4, "seq_length": 16}


def source_of(domain: str, document: int) -> str:
    return f"{domain} {document % 2}"


def license_of(document: int) -> str:
    return LICENSES[document % 3]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Shards with sidecars: documents are of two sources a domain, in turn, and of three licenses."""
    numbered.write_domains(tmp_path)
    for domain, lengths in numbered.LENGTHS.items():
        rows = [
            {"tokens": length, "source": source_of(domain, index), "license": license_of(index)}
            for index, length in enumerate(lengths)
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train" / f"{domain}.parquet", row_group_size=3)
    return tmp_path


def read(job: Job, root: Path, steps: list[int]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the mixture of a run that took these steps, and the rows of its record."""
    rows = [{"step": step, "first_sample": job.plan.at(step).first_sample} for step in steps]
    write_record(root / "record", job, root / "index", rows)
    return mixture.read(job, root / "record", root / "train"), pq.read_table(root / "record").to_pylist()


def all_steps(job: Job) -> list[int]:
    return list(range(1, job.plan.steps + 1))


def rows_of(found: dict[str, Any], phase: str | None) -> dict[str, dict[str, Any]]:
    return {row["domain"]: row for row in found["domains"] if row["phase"] == phase}


def test_what_was_got_is_what_the_recorded_documents_hold(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_record, "SAMPLES_AT_A_TIME", 64)
    job = numbered.job(shards, MAIN, ANNEAL)
    found, record = read(job, shards, all_steps(job))
    for phase, first, last in (("0", 1, 75), ("1", 76, 82), (None, 1, 82)):
        for domain, row in rows_of(found, phase).items():
            pieces = [each for each in record if each["domain"] == domain and first <= each["step"] <= last]
            seen = Counter((each["document"], token) for each in pieces for token in range(each["start"], each["end"]))
            assert row["got_tokens"] == sum(seen.values())
            assert row["unique_tokens"] == len(seen)
            assert row["epochs"] == sum(seen.values()) / sum(numbered.LENGTHS[domain])
    assert job.plan.steps == 82
    assert rows_of(found, "0")["code"]["epochs"] > 4
    assert rows_of(found, "1")["code"]["unique_tokens"] < sum(numbered.LENGTHS["code"])


def test_sources_and_licenses_are_those_of_the_recorded_documents(shards: Path) -> None:
    job = numbered.job(shards, MAIN, ANNEAL)
    found, record = read(job, shards, all_steps(job))
    sources, licenses = Counter[str](), Counter[str]()
    for piece in record:
        sources[source_of(piece["domain"], piece["document"])] += piece["end"] - piece["start"]
        licenses[license_of(piece["document"])] += piece["end"] - piece["start"]
    assert {name: entry["tokens"] for name, entry in found["sources"].items()} == sources
    assert {name: entry["tokens"] for name, entry in found["licenses"].items()} == licenses
    assert sum(entry["share"] for entry in found["licenses"].values()) == pytest.approx(1)


def test_what_was_asked_is_what_the_settings_say(shards: Path) -> None:
    job = numbered.job(shards, MAIN, ANNEAL)
    found, _ = read(job, shards, all_steps(job))
    asked = {phase: {name: row["asked_tokens"] for name, row in rows_of(found, phase).items()} for phase in ("0", "1")}
    assert asked == {"0": {"code": 720, "prose": 1680}, "1": {"code": 40, "prose": 400}}
    assert rows_of(found, None)["prose"]["asked_tokens"] == 2080
    assert rows_of(found, "0")["code"]["asked_share"] == 0.3
    for row in found["domains"]:
        assert row["difference"] == row["got_tokens"] - row["asked_tokens"]
        assert -2 * 16 < row["difference"] < 4 * 16, "rounding is to whole samples and steps"


def test_replicas_get_the_mixture_of_one_process(shards: Path) -> None:
    one, two = (numbered.job(shards, MAIN, ANNEAL, layout={"data_parallel_size": degree}) for degree in (1, 2))
    assert read(one, shards, all_steps(one)) == read(two, shards, all_steps(two))


def test_a_step_that_was_left_out_is_lacking(shards: Path) -> None:
    job = numbered.job(shards, MAIN)
    found, _ = read(job, shards, [step for step in all_steps(job) if step != 1])
    assert sum(row["difference"] for row in rows_of(found, None).values()) == -4 * 8


def test_a_branch_is_asked_for_what_was_left_to_do(shards: Path) -> None:
    start = {"kind": "checkpoint", "path": "elsewhere"}
    job = numbered.job(shards, MAIN, ANNEAL, start=start)
    middle, _ = read(job, shards, all_steps(job)[50:])
    asked = {name: row["asked_tokens"] for name, row in rows_of(middle, "0").items()}
    assert asked == {"code": 240, "prose": 560}
    end, _ = read(job, shards, all_steps(job)[75:])
    assert [row["asked_tokens"] for row in rows_of(end, "0").values()] == [0, 0]
    assert rows_of(end, "1") == rows_of(middle, "1")
