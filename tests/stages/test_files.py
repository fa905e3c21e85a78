import json
from pathlib import Path

import pytest

from stages import files
from stages.errors import UserError


def test_an_output_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError), files.output("stage") as folder:
        (folder / "half").write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.glob("out/*"))
    with files.output("stage") as folder:
        (folder / "whole").write_text("whole")
        assert not Path("out/stage").exists()
    assert [path.name for path in Path("out/stage").iterdir()] == ["whole"]


def test_an_output_replaces_what_an_earlier_and_a_killed_run_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for left in ("out/stage/old", "out/stage.partial/half"):
        Path(left).parent.mkdir(parents=True)
        Path(left).write_text(left)
    with files.output("stage") as folder:
        (folder / "new").write_text("new")
    assert [path.as_posix() for path in sorted(Path("out").rglob("*"))] == ["out/stage", "out/stage/new"]


def test_a_missing_input_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is missing\. It is an output of stage 'curate': run `dvc repro curate`"):
        files.require(tmp_path / "documents", "curate")


def test_equal_values_are_equal_json(tmp_path: Path) -> None:
    files.write_json(tmp_path / "one.json", {"b": 1, "a": "é"})
    files.write_json(tmp_path / "two.json", {"a": "é", "b": 1})
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "nan.json", float("nan"))


def test_json_lines_come_back(tmp_path: Path) -> None:
    rows = [{"text": "a\nb"}, {"text": "\u2028"}]
    files.write_jsonl(tmp_path / "rows.jsonl", rows)
    assert list(files.read_jsonl(tmp_path / "rows.jsonl")) == rows
    assert len((tmp_path / "rows.jsonl").read_text().split("\n")) == 3
    assert json.loads((tmp_path / "rows.jsonl").read_text().split("\n")[0]) == rows[0]


def test_a_tree_has_the_digest_of_its_names_and_bytes_not_of_its_place(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text("same")
    assert files.sha256_tree(tmp_path / "one") == files.sha256_tree(tmp_path / "two")
    (tmp_path / "two" / "deep" / "file").rename(tmp_path / "two" / "deep" / "other")
    assert files.sha256_tree(tmp_path / "one") != files.sha256_tree(tmp_path / "two")
