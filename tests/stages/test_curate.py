import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.corpus.documents import Document, read
from stages.curate import explain
from stages.errors import UserError
from stages.files import read_json, read_jsonl, sha256_tree

OUT = Path("out/curate")
SPLITS = ("train", "validation", "test")
Run = Callable[..., None]
Params = dict[str, Any]


def curated(split: str) -> list[Document]:
    return list(read(sorted((OUT / "documents" / split).glob("*.parquet"))))


def test_no_text_is_in_two_splits_and_none_is_lost_uncounted(run_stages: Run) -> None:
    run_stages("snapshot", "curate")
    digests = [each.sha256 for split in SPLITS for each in curated(split)]
    assert len(set(digests)) == len(digests)
    report, taken = read_json(OUT / "report.json"), read_json(Path("out/snapshot/metrics.json"))
    dropped = sum(count["documents"] for count in report["dropped"].values())
    assert sum(report["kept"][split]["documents"] for split in SPLITS) == len(digests)
    assert len(digests) + dropped == taken["documents"]


def test_the_report_the_plot_and_the_sample_agree(params: Params, run_stages: Run) -> None:
    run_stages("snapshot", "curate")
    dropped = read_json(OUT / "report.json")["dropped"]
    plotted = read_json(OUT / "plots/drop_reasons.json")
    assert {row["reason"]: row["documents"] for row in plotted} == {
        reason: count["documents"] for reason, count in dropped.items()
    }
    sampled = Counter(row["reason"] for row in read_jsonl(OUT / "dropped.jsonl"))
    bound = params["curate"]["dropped_sample"]
    assert sampled == {reason: min(bound, count["documents"]) for reason, count in dropped.items()}


def test_any_document_is_explained(
    run_stages: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_stages("snapshot", "curate")
    dropped = next(row for row in read_jsonl(OUT / "dropped.jsonl") if row["step"] == "length")
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["curate", "--explain", dropped["id"]])
    explain()
    found = json.loads(capsys.readouterr().out)
    assert found["outcome"] == "dropped"
    assert found["origin"] == dropped["origin"]
    assert found["events"][-1]["reason"] == dropped["reason"]
    assert not 100 <= found["events"][-1]["numbers"]["characters"] <= 100_000


def test_a_source_can_have_a_chain_of_its_own(params: Params, run_stages: Run) -> None:
    nothing = {"steps": [{"step": "length", "min_characters": 1_000_000, "max_characters": 1_000_001}]}
    params["curate"]["source_chains"] = {"reference": nothing}
    run_stages("snapshot", "curate")
    kept = read_json(OUT / "report.json")["kept"]
    assert all(part["by"]["domain"].keys() == {"code"} for part in kept.values())


def test_the_same_snapshot_gives_the_same_bytes(run_stages: Run) -> None:
    run_stages("snapshot", "curate")
    first = sha256_tree(OUT)
    run_stages("curate")
    assert sha256_tree(OUT) == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": {"validation": 0.5, "test": 0.5, "seed": 0}}, r"curate\.split.*less than 1"),
        ({"split": {"validation": 0.0, "test": 0.1, "seed": 0}}, r"curate\.split\.validation = 0\.0"),
        ({"chains": {"code": {"steps": []}}}, r"curate\.chains has no 'prose', the domain of source 'reference'"),
        ({"chains": {"code": {"steps": [{"step": "lenght"}]}}}, r"curate\.chains\.code\.steps\.0.*lenght"),
        ({"chains": {"code": {"steps": [{"step": "length", "min_characters": 1}]}}}, r"max_characters is missing"),
        ({"source_chains": {"nonesuch": {"steps": []}}}, r"source_chains has \['nonesuch'\], which are no sources"),
    ],
)
def test_a_bad_parameter_is_named(change: Params, message: str, params: Params, run_stages: Run) -> None:
    run_stages("snapshot")
    params["curate"] |= change
    with pytest.raises(UserError, match=message):
        run_stages("curate")
    assert not (OUT / "documents").exists()


def test_a_missing_snapshot_is_named_with_the_stage_that_makes_it(run_stages: Run) -> None:
    with pytest.raises(UserError, match=r"'out/snapshot/manifest.json' is missing.*`dvc repro snapshot`"):
        run_stages("curate")
