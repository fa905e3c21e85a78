import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.recompute import results_from_samples
from stages.errors import UserError
from stages.evaluate import main
from stages.files import read_json, read_jsonl, sha256_file, write_jsonl
from tests.evals import world

BENCHMARK = {
    "task": "capitals",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "mine/capitals.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "question",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 3},
}

NOT_ASKED: dict[str, Any] = {"asked": {}, "covered": {}, "uncovered_tasks": []}


@pytest.fixture(scope="module", autouse=True)
def offline_only_here() -> Iterator[None]:
    with world.offline_only_here():
        yield


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world in which the stage has run once."""
    root = tmp_path_factory.mktemp("world")
    world.make(root)
    _run(root)
    return root


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in another folder, with a benchmark of the user's own."""
    root = tmp_path_factory.mktemp("elsewhere") / "deeper"
    world.make(root)
    rows = [{"question": "The capital of France is", "choices": ["Rome", "Paris"], "gold": gold} for gold in (0, 1)]
    write_jsonl(root / "mine" / "capitals.jsonl", rows)
    (root / "mine" / "capitals.yaml").write_text(json.dumps(BENCHMARK))
    world.write_coverage(root, {"atlas": ("capitals",)})
    world.write_params(root, {**world.PARAMS, "tasks": ["capitals"], "include_path": "mine"})
    _run(root)
    return root


def _run(root: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        main()


def _digests(root: Path) -> dict[str, str]:
    folder = root / "out" / "evaluate"
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.e2e
def test_two_runs_in_two_places_give_the_same_bytes(evaluated: Path, elsewhere: Path) -> None:
    first, second = _digests(evaluated), _digests(elsewhere)
    assert first.pop("results.json") != second.pop("results.json")  # the benchmark
    assert first == second
    ours, theirs = (read_json(root / "out/evaluate/results.json") for root in (evaluated, elsewhere))
    assert {**theirs, "benchmarks": {}, "coverage": NOT_ASKED} == ours


def test_a_benchmark_of_the_user_is_reported_as_lm_eval_gives_it(elsewhere: Path) -> None:
    benchmark = read_json(elsewhere / "out/evaluate/results.json")["benchmarks"]["capitals"]
    assert benchmark == {"version": 3, "metrics": {"acc,none": 0.5, "acc_stderr,none": 0.5}}


def test_results_say_what_the_training_documents_were_checked_against(elsewhere: Path) -> None:
    found = read_json(elsewhere / "out/evaluate/results.json")["coverage"]
    assert found["asked"] == {"capitals": ["capitals"]}
    assert found["covered"] == {"capitals": {"benchmark": "atlas", "sha256": "0" * 64}}
    assert found["uncovered_tasks"] == []


def test_results_are_what_the_samples_give(evaluated: Path) -> None:
    stated = read_json(evaluated / "out/evaluate/results.json")
    recomputed = results_from_samples(evaluated / "out/evaluate/samples")
    assert json.dumps(recomputed, sort_keys=True) == json.dumps(
        {key: stated[key] for key in recomputed}, sort_keys=True
    )


def test_results_name_what_they_rest_on(evaluated: Path) -> None:
    results = read_json(evaluated / "out/evaluate/results.json")
    assert set(results["bits_per_byte"]) == set(results["continuation"]) == {"code", "prose", "all"}
    assert results["bits_per_byte"]["all"]["documents"] == 2 * world.PARAMS["documents"]
    assert results["continuation"]["code"]["questions"] == world.PARAMS["continuation"]["questions"]
    names = {path.stem for path in (evaluated / "out/evaluate/tasks").iterdir()}
    assert set(results["harness"]["tasks"]) == names
    assert names | {"concatenated"} == {path.stem for path in (evaluated / "out/evaluate/samples").iterdir()}


def test_every_document_is_scored_whole(evaluated: Path) -> None:
    folder = evaluated / "out/evaluate"
    for name in ("bits_per_byte_code", "bits_per_byte_prose"):
        texts = {row["id"]: row["text"] for row in read_jsonl(folder / "tasks" / f"{name}.jsonl")}
        sizes = {row["id"]: row["bytes"] for row in read_jsonl(folder / "samples" / f"{name}.jsonl")}
        assert sizes == {identifier: len(text.encode()) for identifier, text in texts.items()}


def test_an_untrained_model_is_worse_than_the_compressors_and_guesses(evaluated: Path) -> None:
    results = read_json(evaluated / "out/evaluate/results.json")
    whole = results["bits_per_byte"]["all"]
    order = ("xz_concatenated", "xz_document", "unigram", "model")
    assert sorted(order, key=lambda name: whole[name]["value"]) == list(order)
    accuracy = results["continuation"]["all"]["accuracy"]
    assert abs(accuracy["value"] - 0.25) < 4 * accuracy["stderr"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "tpu"}, r"evaluate.device = \"tpu\""),
        ({"device": "cuda:99"}, r"evaluate.device = 'cuda:99': torch finds cpu"),
        ({"documents": 1}, r"evaluate.documents = 1"),
        ({"batch_sise": 1}, r"evaluate.batch_sise is not a parameter"),
        pytest.param(
            {"tasks": ["ai2_arc"]}, "not checked against the data of arc_challenge, arc_easy, so", marks=pytest.mark.e2e
        ),
        ({"uncovered_tasks": "skip"}, r"evaluate.uncovered_tasks = \"skip\""),
        pytest.param({"tasks": ["nonesuch"]}, r"evaluate.tasks: lm-eval knows no 'nonesuch'", marks=pytest.mark.e2e),
        ({"include_path": "nowhere"}, r"evaluate.include_path = 'nowhere' is not a folder"),
        ({"continuation.context_bytes": 161}, r"context_bytes \+ choice_bytes = 257, over the 256 tokens"),
        ({"continuation.questions": 9999}, r"evaluate.continuation.questions = 9999"),
    ],
)
def test_a_bad_parameter_is_named_and_earlier_results_stay(
    evaluated: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    before = _digests(evaluated)
    params = copy.deepcopy(world.PARAMS)
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        (params[section] if section else params)[key] = value
    world.write_params(evaluated, params)
    monkeypatch.chdir(evaluated)
    with pytest.raises(UserError, match=message):
        main()
    assert _digests(evaluated) == before
    assert not Path("out/evaluate.partial").exists()


@pytest.mark.parametrize(("missing", "stage"), [("export", "export"), ("curate", "curate"), ("shards", "shards")])
def test_a_missing_upstream_output_names_its_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, stage: str
) -> None:
    world.make(tmp_path)
    (tmp_path / "out" / missing).rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"run `dvc repro {stage}`"):
        main()


def test_settings_load_without_the_heavy_libraries() -> None:
    code = (
        "import sys, stages.evaluate; "
        "print({'torch', 'transformers', 'lm_eval', 'datasets', 'megatron', 'pyarrow', 'numpy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"
