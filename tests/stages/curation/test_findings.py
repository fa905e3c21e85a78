"""What is found of evaluation data is told passage by passage, and counted by benchmark."""

from pathlib import Path
from typing import Literal

import pytest

from stages.curation import trail
from stages.curation.benchmarks import Benchmark
from stages.curation.chain import Chain
from stages.curation.contamination import Contamination
from stages.curation.findings import by_benchmark, findings
from tests.stages.curation.world import document, pinned

ROWS = [
    "Four score and seven years ago our fathers brought forth, on this continent, a new nation",
    "the world will little note, nor long remember what we say here, but it can never forget",
]
TEXTS = ["nothing of it", f"He said: {ROWS[0]}.", f"{ROWS[1]} -- {ROWS[0]}"]


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    folder = tmp_path / "speeches"
    folder.mkdir()
    (folder / "README.md").write_text("---\nconfigs:\n- data_files:\n  - {split: test, path: test.jsonl}\n---\n")
    (folder / "test.jsonl").write_text("".join(f'["{row}"]\n' for row in ROWS))
    return pinned(folder, ("test",))


def stored(benchmark: Benchmark, action: Literal["drop", "cut", "tag"], path: Path) -> list[Path]:
    names = {"speeches": benchmark, "letters": benchmark}
    step = Contamination(step="contamination", benchmarks=names, ngram=8, action=action, margin=0, max_cuts=1)
    documents = [document(text, str(number)) for number, text in enumerate(TEXTS)]
    with trail.TrailWriter(path) as writer:
        for each, outcome in zip(documents, Chain(steps=(step,)).build()(documents), strict=True):
            writer.add(trail.row(each, outcome))
    return [path]


@pytest.mark.parametrize(
    ("action", "done"), [("drop", ["drop", "drop"]), ("cut", ["cut", "drop"]), ("tag", ["tag", "tag"])]
)
def test_a_finding_names_document_benchmark_row_passage_and_what_was_done(
    action: Literal["drop", "cut", "tag"], done: list[str], benchmark: Benchmark, tmp_path: Path
) -> None:
    found = [row for row in findings(stored(benchmark, action, tmp_path / "trail")) if row["benchmark"] == "speeches"]
    assert [(row["origin"], row["row"], row["passage"]) for row in found] == [
        ("1", "test.jsonl:0", ROWS[0]),
        ("2", "test.jsonl:1", ROWS[1]),
        ("2", "test.jsonl:0", ROWS[0]),
    ]
    assert [row["action"] for row in found] == [done[0], done[1], done[1]]
    assert found[0]["id"] == document(TEXTS[1], "1").id


def test_rows_and_documents_are_counted_once_for_each_benchmark(benchmark: Benchmark, tmp_path: Path) -> None:
    found = findings(stored(benchmark, "cut", tmp_path / "trail"))
    assert by_benchmark(found, ["speeches", "letters", "none"]) == {
        "letters": {"rows": 2, "documents": {"cut": 1, "drop": 1}},
        "none": {"rows": 0, "documents": {}},
        "speeches": {"rows": 2, "documents": {"cut": 1, "drop": 1}},
    }
