"""The stage makes a release that verifies, the same bytes every time, or none at all."""

import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from release import sums
from stages import release
from stages.errors import UserError
from stages.files import read_json, write_json
from stages.settings import read_yaml
from tests.release import world


def _set(**values: object) -> None:
    params = read_yaml(Path("params.yaml"))
    params["release"].update(values)
    world.write_yaml(Path("params.yaml"), params)


def test_release_twice_is_the_same_bytes(run: Path) -> None:
    release.main()
    first = {path: (run / "out" / "release" / path).read_bytes() for path in sums.paths(run / "out" / "release")}
    shutil.rmtree(run / "out" / "release")
    release.main()
    assert {path: (run / "out" / "release" / path).read_bytes() for path in first} == first


def test_release_is_the_same_in_another_clone_place_and_locale(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release.main()
    clone = tmp_path / "another place"
    world.git(run, "clone", "--quiet", str(run), str(clone))
    shutil.copytree(run / "out", clone / "out", ignore=shutil.ignore_patterns("release"))
    shutil.copy(run / "dvc.lock", clone / "dvc.lock")
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"}
    root = Path(release.__file__).parents[1]
    command = [sys.executable, "-m", "stages.release"]
    subprocess.run(command, cwd=clone, env=environment | {"PYTHONPATH": str(root)}, check=True, capture_output=True)
    assert sums.digest(clone / "out" / "release") == sums.digest(run / "out" / "release")


def test_coreutils_verifies_the_release(run: Path) -> None:
    release.main()
    subprocess.run(["sha256sum", "--check", "--strict", sums.SUMS], cwd="out/release", check=True, capture_output=True)


def test_dirty_tree_is_released_with_its_patch(run: Path) -> None:
    (run / "new.py").write_text("x = 1\n")
    _set(description="Changed.")
    release.main()
    patch = (run / "out" / "release" / "code" / "uncommitted.diff").read_text()
    assert "+++ b/new.py" in patch
    assert "+++ b/params.yaml" in patch
    assert "uncommitted.diff" in (run / "out" / "release" / "README.md").read_text()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("out/export/model", "`dvc repro export`"),
        ("out/evaluate/results.json", "`dvc repro evaluate`"),
        ("out/curate/report.json", "`dvc repro curate`"),
        ("dvc.lock", "'dvc.lock'"),
        ("requirements.lock", "'requirements.lock'"),
        ("LICENSE", "release.license_file"),
    ],
)
def test_missing_input_is_named_and_nothing_is_left(run: Path, path: str, message: str) -> None:
    missing = run / path
    shutil.rmtree(missing) if missing.is_dir() else missing.unlink()
    with pytest.raises(UserError, match="is missing") as caught:
        release.main()
    assert message in str(caught.value)
    assert not (run / "out" / "release").exists()
    assert not (run / "out" / "release.partial").exists()


def test_output_that_the_graph_did_not_make_is_not_released(run: Path) -> None:
    results = run / "out" / "evaluate" / "results.json"
    results.write_text(results.read_text().replace('"questions": 3', '"questions": 4'))
    with pytest.raises(UserError, match=r"does not verify \(results\).*questions"):
        release.main()
    assert not (run / "out" / "release").exists()


def test_what_licenses_ask_is_refused_by_source(run: Path) -> None:
    share_alike = "CC-BY-SA-4.0"
    for path in sorted((run / "out" / "shards" / "tokens").glob("*/prose.parquet")):
        rows = pq.read_table(path).to_pylist()
        pq.write_table(pa.Table.from_pylist([{**row, "license": share_alike} for row in rows]), path)
    with pytest.raises(UserError, match=r"copyleft of 'pages' \(9 documents, 900 bytes\); share_alike of 'pages'"):
        release.main()
    assert not (run / "out" / "release").exists()


def test_what_is_admitted_is_told_on_the_card(run: Path) -> None:
    manifest = read_json(run / "out" / "snapshot" / "manifest.json")
    manifest["sources"]["pages"]["settings"]["license_basis"] = "repository"
    write_json(run / "out" / "snapshot" / "manifest.json", manifest)
    world.write_lock(run)
    with pytest.raises(UserError, match=r"release\.admits does not name .*: repository_license of 'pages'"):
        release.main()
    _set(admits=["repository_license"])
    release.main()
    assert "| repository_license | pages | 9 | 900 |\n" in (run / "out" / "release" / "README.md").read_text()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("admits", ["gpl"]),
        ("name", "a/b"),
        ("version", ""),
        ("license", None),
        ("languages", []),
        ("tags", "x"),
    ],
)
def test_bad_parameter_is_named_in_under_a_second(run: Path, key: str, value: object) -> None:
    _set(**{key: value})
    with pytest.raises(UserError, match=f"release.{key}"):
        release.main()


def test_stage_module_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'lm_eval', 'huggingface_hub', 'pyarrow', 'jinja2'}"
    code = f"import sys, stages.release, stages.publish; sys.exit(bool({heavy} & set(sys.modules)))"
    root = Path(release.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
