"""What the stage shows besides documents: evaluation data it looked for and found, opt-outs, tags, classifiers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.corpus.documents import read
from stages.curation import trail
from stages.curation.benchmarks import Manifest
from stages.errors import UserError
from stages.files import read_json, read_jsonl, sha256_file, sha256_tree
from tests.shared import shared

CURATED = Path("out/curate")
Run = Callable[..., None]
Params = dict[str, Any]


@pytest.mark.e2e
def test_every_known_overlap_with_benchmarks_is_in_the_report(params: Params, run_stages: Run) -> None:
    answers = list(read_jsonl(shared("curation") / "decontamination" / "ngram13_overlaps.jsonl"))
    holders = sorted({file.removeprefix("corpus/") for answer in answers for file in answer["corpus_files"]})
    source: Params = {"kind": "files", "domain": "prose", "license": "MIT", "include": holders}
    source["root"] = str(shared("corpus"))
    source["formats"] = {"plain": ["*"]}  # the answers are about the files as they are: without markup, others match
    params["snapshot"] |= {"shard_bytes": 1 << 25, "sources": {"holders": source}}
    with pytest.raises(UserError, match="has no sha256") as raised:
        run_stages("snapshot")
    source["sha256"] = str(raised.value)[-64:]
    tasks = sorted({answer["task"] for answer in answers})
    folders = {task: shared("bench") / task for task in tasks}
    benchmarks = {
        task: {
            "folder": str(folder),
            "sha256": sha256_tree(folder),
            "splits": ["test", "validation"],
            "tasks": [task, f"{task}_*"],
        }
        for task, folder in folders.items()
    }
    step = {"step": "contamination", "ngram": 13, "action": "drop", "margin": 0, "max_cuts": 0}
    params["curate"]["chains"]["prose"] = {"steps": [{**step, "benchmarks": benchmarks}]}
    run_stages("snapshot", "curate")
    found = {(row["benchmark"], row["row"]) for row in read_jsonl(CURATED / "contaminated.jsonl")}
    assert found == {(each["task"], f"{each['file'].split('/', 1)[1]}:{each['row']}") for each in answers}
    assert len(found) == 16
    counted = read_json(CURATED / "report.json")["contamination"]
    assert sum(count["rows"] for count in counted.values()) == 16
    manifest = Manifest.model_validate_json((CURATED / "contamination.json").read_text())
    assert [manifest.benchmark_of(task) for task in ("boolq", "mmlu_anatomy", "arc_easy")] == ["boolq", "mmlu", None]


def test_each_classifier_is_written_once_with_what_it_is_worth(params: Params, run_stages: Run, tmp_path: Path) -> None:
    rows = [{"text": f"we hold these truths {n}", "label": "prose"} for n in range(40)]
    rows += [{"text": f"def f{n}(self): return None", "label": "code"} for n in range(40)]
    examples = tmp_path / "examples.jsonl"
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    step = {"step": "quality", "examples": str(examples), "sha256": sha256_file(examples), "good": ["prose"]}
    chains = params["curate"]["chains"]
    chains["prose"] = {"steps": [{**step, "bits": 10}]}
    chains["code"] = {"steps": [{**step, "bits": 10, "min_score": 0.001}, {**step, "bits": 8}, {**step, "bits": 8}]}
    run_stages("snapshot", "curate")
    index = read_json(CURATED / "classifiers/index.json")
    assert sorted((each["settings"]["bits"], each["sources"]) for each in index.values()) == [
        (8, ["stdlib"]),
        (10, ["reference", "stdlib"]),
    ]
    for name, each in index.items():
        folder = CURATED / "classifiers" / name
        assert np.load(folder / "weights.npy").shape == (1 << each["settings"]["bits"],)
        assert read_json(folder / "classifier.json")["held_out"]["accuracy"] > 0.9


def test_what_each_list_and_tag_took_is_counted(params: Params, run_stages: Run, tmp_path: Path) -> None:
    run_stages("snapshot")
    documents = list(read(sorted(Path("out/snapshot/documents").glob("reference-*"))))
    lists = {}
    for name, ids in (("some", [each.id for each in documents[:3]]), ("more", [documents[2].id]), ("none", ["0" * 32])):
        path = tmp_path / name
        path.write_text("\n".join(ids) + "\n")
        lists[name] = {"path": str(path), "sha256": sha256_file(path), "kind": "ids"}
    params["curate"]["chains"]["prose"] = {"steps": [{"step": "opt_out", "lists": lists}]}
    run_stages("curate")
    report = read_json(CURATED / "report.json")
    sizes = [len(each.text.encode()) for each in documents[:3]]
    some, more = {"documents": 3, "bytes": sum(sizes)}, {"documents": 1, "bytes": sizes[2]}
    assert report["opt_outs"] == {"some": some, "more": more, "none": {"documents": 0, "bytes": 0}}
    assert report["tags"] == {"opt_out:some": some, "opt_out:more": more}
    assert report["dropped"]["opt_out:some"] == some


def test_where_nothing_is_checked_or_trained_the_records_say_so(run_stages: Run) -> None:
    run_stages("snapshot", "curate")
    assert Manifest.model_validate_json((CURATED / "contamination.json").read_text()) == Manifest(
        ngram=0, benchmarks={}
    )
    assert read_json(CURATED / "classifiers/index.json") == {}
    assert list(read_jsonl(CURATED / "contaminated.jsonl")) == []


def test_the_funnel_of_the_report_ends_with_what_is_kept(run_stages: Run) -> None:
    run_stages("snapshot", "curate")
    report = read_json(CURATED / "report.json")
    for group, funnels in report["funnel"]["by"].items():
        for value, rows in funnels.items():
            kept = [split["by"][group].get(value, {"documents": 0, "bytes": 0}) for split in report["kept"].values()]
            assert rows[-1]["left"]["documents"] == sum(count["documents"] for count in kept)
            assert rows[-1]["left"]["bytes"] == sum(count["bytes"] for count in kept)
    plotted = read_json(CURATED / "plots/funnel.json")
    assert [row["step"] for row in plotted] == ["read", "length", "duplicates"]
    assert plotted[-1]["documents"] == read_json(CURATED / "metrics.json")["kept"]["documents"]


def test_the_rows_of_a_split_are_in_the_order_of_its_documents(run_stages: Run) -> None:
    run_stages("snapshot", "curate")
    parts = sorted((CURATED / "trail").glob("*.parquet"))
    assert len(parts) > 2
    for part in parts:
        for split in ("train", "validation", "test"):
            documents = read(sorted((CURATED / "documents" / split).glob(f"*-{part.stem}.parquet")))
            kept = [row["id"] for row in trail.rows(part) if row["split"] == split]
            assert [document.id for document in documents] == kept
