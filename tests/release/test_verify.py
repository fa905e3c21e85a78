"""The verifier accepts a good release and names what is wrong with every other."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from release import card, layout, lock, sums, verify
from release.card import render
from stages.files import read_json, write_json


def _found(root: Path) -> dict[str, list[str]]:
    found = {name: verify.differences(root, check) for name, check in verify.CHECKS.items()}
    return {name: lines for name, lines in found.items() if lines}


def _edit(path: Path, change: Callable[[Any], None]) -> None:
    value = read_json(path)
    change(value)
    write_json(path, value)


def _sealed(root: Path) -> None:
    """Make the forgery consistent: a new card, new sums."""
    (root / layout.CARD).write_text(render(root))
    sums.write(root)


def test_good_release_verifies_without_network(
    released: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", None)
    assert verify.main([str(released)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["ok"] * len(verify.CHECKS)
    assert lines[-1] == f"release digest {sums.digest(released)}: verified"


def test_difference_is_printed_and_the_exit_code_is_not_zero(
    released: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (released / "LICENSE").unlink()
    assert verify.main([str(released)]) == 1
    assert "         LICENSE: missing\n" in capsys.readouterr().out


def test_file_that_the_hub_adds_is_tolerated(released: Path) -> None:
    (released / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    assert not _found(released)


def test_release_verifies_wherever_it_lies(released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = tmp_path / "else" / "where"
    moved.parent.mkdir()
    released.rename(moved)
    monkeypatch.chdir(moved.parent)
    assert not _found(Path("where"))


def test_flipped_bit_in_the_weights_is_found(released: Path) -> None:
    weights = bytearray((released / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (released / "model.safetensors").write_bytes(weights)
    found = _found(released)
    assert "model.safetensors: sha256 is" in found["files"][0]
    sums.write(released)
    assert "'out/export/model' is" in _found(released)["graph record"][0]


def test_number_changed_in_the_card_is_found(released: Path) -> None:
    text = (released / layout.CARD).read_text()
    (released / layout.CARD).write_text(text.replace("400 tokens", "500 tokens"))
    sums.write(released)
    found = _found(released)
    assert set(found) == {"model card"}
    assert "500 tokens" in found["model card"][0]


def test_removed_and_added_files_are_found(released: Path) -> None:
    (released / "data" / "refused.jsonl").unlink()
    (released / "data" / "more.jsonl").write_text("")
    assert _found(released)["files"] == ["data/more.jsonl: not listed in SHA256SUMS", "data/refused.jsonl: missing"]


def test_results_forged_consistently_are_found_by_recomputation(released: Path) -> None:
    def better(results: Any) -> None:
        results["bits_per_byte"]["code"]["model"]["value"] -= 0.5

    _edit(released / "evaluation" / "results.json", better)
    _sealed(released)
    found = _found(released)
    assert set(found) == {"results", "graph record"}
    assert "evaluation/results.json bits_per_byte.code.model.value" in found["results"][0]


def test_swapped_sample_is_found(released: Path) -> None:
    path = released / "evaluation" / "samples" / "continuation_code.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0], rows[1] = {**rows[1], "id": rows[0]["id"]}, rows[1]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _sealed(released)
    found = _found(released)
    assert any("continuation.code.accuracy" in line for line in found["results"])
    assert "'out/evaluate/samples' is" in found["graph record"][0]


def test_task_on_another_document_is_found(released: Path) -> None:
    path = released / "evaluation" / "tasks" / "bits_per_byte_code.jsonl"
    path.write_text(path.read_text().replace("A document", "An easier"))
    _sealed(released)
    found = _found(released)["tasks"]
    assert "bits_per_byte_code: sha256 is" in found[0]
    assert "the text is not that of document" in found[1]


def test_parameter_that_the_lock_does_not_have_is_found(released: Path) -> None:
    path = released / "code" / "params.yaml"
    path.write_text(path.read_text().replace("0.001", "0.002"))
    _sealed(released)
    found = _found(released)
    assert "pretrain.optimizer.learning_rate = 0.001, code/params.yaml has 0.002" in found["graph record"][0]
    assert "code/params.yaml is not 'params.yaml'" in found["source"][0]


def test_code_that_did_not_run_is_found(run: Path, released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = released / "code" / "dvc.lock"
    ran = lock.md5_file(run / "stages" / "pretrain.py")
    record.write_text(record.read_text().replace(ran, "0" * 32))
    sums.write(released)
    found = _found(released)
    assert set(found) == {"source"}
    assert "ran another 'stages/pretrain.py'" in found["source"][0]


def test_log_cut_short_is_found(released: Path) -> None:
    path = released / "training" / "log.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    sums.write(released)
    assert "3 steps are not the 1 to 4" in _found(released)["training log"][0]


def test_a_step_that_a_guard_left_out_may_be_missing_and_is_in_the_card(released: Path) -> None:
    path = released / "training" / "log.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    event = {"kind": "loss_spike", "step": 2, "value": "loss 9 is high", "action": "skip", "back_to": None}
    rows[2]["events"] = [event]
    path.write_text("".join(json.dumps(row) + "\n" for row in [rows[0], *rows[2:]]))
    _sealed(released)
    assert set(_found(released)) == {"graph record"}, "which knows the log as it was"
    assert "| 2 | loss_spike: loss 9 is high | skip |" in (released / layout.CARD).read_text()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[2:]))
    _sealed(released)
    assert "its 2 steps are not the 1 to 4 of training/run.json without [2]" in _found(released)["training log"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"document": 3}, "1 pieces of domain 'code' are of no training document"),
        ({"end": 11}, "1 pieces of domain 'code' are of no training document"),
        ({"domain": "poems"}, "1 pieces of domain 'poems' are of no training document"),
        ({"end": 9}, "step 1 has 99 tokens, its batch has 100"),
    ],
)
def test_a_step_whose_documents_do_not_add_up_is_found(released: Path, change: dict[str, Any], message: str) -> None:
    path = released / layout.STEP_DOCUMENTS
    pieces = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist([pieces[0] | change, *pieces[1:]]), path)
    sums.write(released)
    assert any(message in line for line in _found(released)["training documents"])


def test_a_mixture_that_the_steps_did_not_see_is_found(released: Path) -> None:
    def balanced(mixture: Any) -> None:
        mixture["domains"][0]["got_tokens"] -= 200

    path = released / "training" / "mixture.json"
    got = {name: entry["tokens"] for name, entry in read_json(path)["licenses"].items()}
    assert got == {"MIT": 0, "Python-2.0.1": 400}
    _edit(path, balanced)
    _sealed(released)
    found = _found(released)
    assert set(found) == {"training mixture", "graph record"}
    assert found["training mixture"][0].startswith("training/mixture.json: its domains are not those of")


def test_tokens_that_the_documents_do_not_have_are_found(released: Path) -> None:
    def fewer(tokens: Any) -> None:
        tokens["kept"]["train"]["by"]["license"]["MIT"]["tokens"] -= 1

    _edit(released / "data" / "tokens.json", fewer)
    _sealed(released)
    message = "data/tokens.json: train by license is not what data/documents/train adds up to"
    assert _found(released)["tokens"] == [message]


def test_totals_that_the_documents_do_not_have_are_found(released: Path) -> None:
    def more(tokens: Any) -> None:
        tokens["kept"]["train"]["bytes"] += 1

    _edit(released / "data" / "tokens.json", more)
    _sealed(released)
    assert _found(released)["tokens"] == ["data/tokens.json: train has other totals than data/documents/train"]


def test_the_log_of_a_branch_begins_behind_its_checkpoint(released: Path) -> None:
    log = released / "training" / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[2:]))
    _sealed(released)
    assert "its 2 steps are not the 1 to 4" in _found(released)["training log"][0]

    def branch(run: Any) -> None:
        run["settings"]["pretrain"]["start"] = {"kind": "checkpoint", "path": "stable/step-00000002"}

    _edit(released / "training" / "run.json", branch)
    _sealed(released)
    assert "training log" not in _found(released)


def test_parameters_that_the_weights_do_not_have_are_found(released: Path) -> None:
    def more(metrics: Any) -> None:
        metrics["parameters"] += 1

    _edit(released / "training" / "metrics.json", more)
    _sealed(released)
    assert "parameters, training/metrics.json says" in _found(released)["weights"][0]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("license", "GPL-3.0-only", "license_not_allowed"),
        ("source", "elsewhere", "data/manifest.json has no such source"),
        ("id", None, "more than once"),
    ],
)
def test_document_of_unknown_origin_is_found(released: Path, column: str, value: str | None, message: str) -> None:
    path = released / layout.SIDECARS / "train" / "code.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0][column] = value or rows[1][column]
    pq.write_table(pa.Table.from_pylist(rows), path)
    _sealed(released)
    assert any(message in line for line in _found(released)["data"])


@pytest.mark.parametrize("path", ["training/metrics.json", "code/source.tar.gz", "model.safetensors", "code/dvc.lock"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe{]", b"{}", b"[1]"])
def test_unreadable_file_is_a_difference_not_a_crash(released: Path, path: str, content: bytes) -> None:
    (released / path).write_bytes(content)
    assert verify.main([str(released)]) == 1


def test_path_that_is_no_release_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([str(tmp_path)]) == 2
    assert "is not a release" in capsys.readouterr().err


def test_card_depends_on_the_release_alone(released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert card.render(released) == (released / layout.CARD).read_text()


def test_what_licenses_ask_and_the_release_does_not_admit_is_found(released: Path) -> None:
    def only_the_repository(manifest: Any) -> None:
        manifest["sources"]["pages"]["settings"]["license_basis"] = "repository"

    _edit(released / "data" / "manifest.json", only_the_repository)
    _sealed(released)
    assert _found(released)["admissions"] == [
        "code/params.yaml: release.admits does not name repository_license of 'pages' (9 documents, 900 bytes)"
    ]


def test_a_document_that_is_taken_by_reference_need_not_be_counted_by_the_snapshot(released: Path) -> None:
    def uncounted(manifest: Any) -> None:
        manifest["sources"]["pages"]["licenses"] = {}

    def by_reference(manifest: Any) -> None:
        manifest["sources"]["pages"]["settings"]["by_reference"] = True

    path = released / "data" / "manifest.json"
    _edit(path, uncounted)
    _sealed(released)
    assert "data/manifest.json has fewer" in _found(released)["data"][0]
    _edit(path, by_reference)
    _sealed(released)
    assert set(_found(released)) == {"graph record"}


def test_benchmarks_are_told_as_checked_only_if_curation_checked_them(released: Path) -> None:
    def ask(task: str, results: Any) -> None:
        covered = {task: {"benchmark": "arc", "sha256": "4" * 64}}
        results["coverage"] = {"asked": {task: [task]}, "covered": covered, "uncovered_tasks": []}
        results["benchmarks"] = {task: {"version": 1, "metrics": {"acc,none": 0.5}}}

    path, params = released / "evaluation" / "results.json", released / "code" / "params.yaml"
    _edit(path, lambda results: ask("arc_easy", results))
    _sealed(released)
    assert _found(released)["coverage"] == [
        "evaluation/results.json coverage: ['arc_easy'] are not evaluate.tasks of code/params.yaml"
    ]
    params.write_text(params.read_text().replace("tasks: []", "tasks: [arc_easy]"))
    _sealed(released)
    assert set(_found(released)) == {"graph record", "source"}  # where the parameters are others
    assert "| arc_easy | arc | acc,none | 0.5000 |" in (released / layout.CARD).read_text()
    _edit(path, lambda results: ask("piqa", results))
    _sealed(released)
    found = _found(released)["coverage"]
    assert any("coverage.covered.piqa" in line for line in found)
    assert "evaluate.uncovered_tasks = 'refuse', but some are: ['piqa']" in found[-1]
