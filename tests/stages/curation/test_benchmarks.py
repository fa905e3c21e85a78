import json
from pathlib import Path

import pytest

from stages.curation.benchmarks import Benchmark, Checked, Manifest, read_rows
from stages.errors import UserError
from tests.stages.curation.world import pinned

README = """---
license: mit
configs:
- config_name: main
  data_files:
  - split: test
    path: {path}
  - split: train
    path: train.jsonl
---

# A benchmark
"""
ROWS = [
    {"question": "Which?", "choices": {"label": ["A", "B"], "text": ["this", "that"]}, "answer": 1},
    {"question": "Why?", "choices": None, "answer": 0.5},
]


def folder(root: Path, path: str = "test.jsonl") -> Path:
    (root / "README.md").write_text(README.format(path=path))
    for name in ("test.jsonl", "train.jsonl"):
        (root / name).write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return root


def benchmark(root: Path, *splits: str) -> Benchmark:
    return pinned(root, splits)


def test_a_row_is_all_its_strings_in_their_order(tmp_path: Path) -> None:
    rows = list(read_rows("quiz", benchmark(folder(tmp_path), "test")))
    assert [row.text for row in rows] == ["Which?\nA\nB\nthis\nthat", "Why?"]
    assert [(row.benchmark, row.row) for row in rows] == [("quiz", "test.jsonl:0"), ("quiz", "test.jsonl:1")]


@pytest.mark.parametrize("path", ["te*.jsonl", "[test.jsonl]"])
def test_files_are_a_glob_or_a_list(tmp_path: Path, path: str) -> None:
    rows = read_rows("quiz", benchmark(folder(tmp_path, path), "test"))
    assert [row.row for row in rows] == ["test.jsonl:0", "test.jsonl:1"]


def test_a_split_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Benchmark 'quiz'.* has no file of split validation"):
        list(read_rows("quiz", benchmark(folder(tmp_path), "validation")))


def test_a_folder_without_readme_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"README\.md' is missing"):
        list(read_rows("quiz", benchmark(tmp_path, "test")))


def test_a_truncated_line_is_named(tmp_path: Path) -> None:
    (folder(tmp_path) / "test.jsonl").write_text('{"question": "Which?"}\n{"question": "Wh')
    with pytest.raises(UserError, match=r"test\.jsonl', line 2 is not JSON"):
        list(read_rows("quiz", benchmark(tmp_path, "test")))


def test_tasks_are_covered_by_name_or_pattern() -> None:
    checked = {
        "mmlu": Checked(sha256="0", tasks=("mmlu", "mmlu_*"), rows=1, short_rows=0),
        "arc": Checked(sha256="1", tasks=("arc_easy",), rows=1, short_rows=0),
        "blimp": Checked(sha256="2", tasks=("blimp",), rows=9, short_rows=9),  # none of them could be found
    }
    manifest = Manifest(ngram=13, benchmarks=checked)
    tasks = ["arc_challenge", "mmlu_anatomy", "arc_easy", "mmlu", "blimp"]
    assert [manifest.benchmark_of(task) for task in tasks] == [None, "mmlu", "arc", "mmlu", None]
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
