"""The whole graph at toy size, in clean clones, run by dvc as a user runs it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.files import sha256_file
from tests.model.test_training import wait_for
from tests.test_graph import ORDER, outputs

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[1]
BINARIES = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BINARIES}{os.pathsep}{os.environ['PATH']}",
    "DVC_NO_ANALYTICS": "1",
}
ONE_TIME = ("env", "GIT_AUTHOR_DATE=2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2026-01-01T00:00:00Z")
"""Two clones of one repository have the same commit; two commits of the same files need the same time for it."""


def call(root: Path, *command: str) -> str:
    ended = subprocess.run(command, cwd=root, env=ENVIRONMENT, capture_output=True, text=True)
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def make_clone(root: Path) -> None:
    """Make a clean clone of the working tree, as if all of it were committed, with the toy parameters."""
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file() and name != "dvc.lock":
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    call(root, sys.executable, "-m", "stages.params", "toy")
    call(root, "git", "init", "--quiet", "--initial-branch=main")
    call(root, "git", "add", "--all")
    call(root, "git", "config", "user.name", "openbase")
    call(root, "git", "config", "user.email", "openbase@example.org")
    call(root, *ONE_TIME, "git", "commit", "--quiet", "--message=toy")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("one") / "openbase"
    make_clone(root)
    call(root, "dvc", "repro")
    return root


def declared_outputs(root: Path) -> dict[str, str]:
    """Return the sha256 of every file that a stage declares as its output."""
    declared = [root / path for stage in ORDER for path in outputs(stage)]
    files = [file for path in declared for file in (path.rglob("*") if path.is_dir() else [path])]
    return {file.relative_to(root).as_posix(): sha256_file(file) for file in files if file.is_file()}


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def test_two_clean_clones_give_the_same_bytes(clone: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "under another name"
    make_clone(other)
    call(other, "dvc", "repro")
    first, second = declared_outputs(clone), declared_outputs(other)
    assert {path.split("/")[1] for path in first} == set(ORDER)
    assert "out/release/model.safetensors" in first
    assert second == first


def test_nothing_runs_again_when_nothing_changed(clone: Path) -> None:
    assert stages_run(call(clone, "dvc", "repro")) == []


def test_a_repro_killed_while_it_trains_and_repeated_gives_the_same_bytes(clone: Path) -> None:
    before = {path: digest for path, digest in declared_outputs(clone).items() if path.startswith("out/pretrain/")}
    again = ("dvc", "repro", "--force", "--single-item", "pretrain")
    for step in (3, 13):
        kill_when_trained(step, clone, again)
    assert stages_run(call(clone, *again)) == ["pretrain"]
    after = {path: digest for path, digest in declared_outputs(clone).items() if path.startswith("out/pretrain/")}
    assert after == before


def kill_when_trained(step: int, root: Path, command: tuple[str, ...]) -> None:
    """Start dvc, and kill it and its stage when the log of the training reaches a step."""
    with subprocess.Popen(
        command, cwd=root, env=ENVIRONMENT, start_new_session=True, stderr=subprocess.DEVNULL, text=True
    ) as process:
        wait_for(step, root, process)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (root / "out" / "pretrain" / "checkpoint").exists()


def test_a_release_verifies_and_sums_up(clone: Path) -> None:
    assert "differ" not in call(clone, sys.executable, "-m", "release.verify", "out/release").splitlines()[-1]
    call(clone / "out" / "release", "sha256sum", "--check", "--quiet", "SHA256SUMS")
    summary = call(clone, sys.executable, "-m", "release.summary")
    receipt = json.loads((clone / "out" / "publish" / "receipt.json").read_text())
    assert receipt["digest"] in summary


def test_dvc_shows_the_graph_its_metrics_plots_and_parameters(clone: Path) -> None:
    assert "pretrain" in call(clone, "dvc", "dag")
    assert "validation_bits_per_byte" in call(clone, "dvc", "metrics", "show", "--md")
    assert (clone / "dvc_plots").exists() or "index.html" in call(clone, "dvc", "plots", "show")


def test_a_changed_evaluation_runs_it_and_what_depends_on_it(clone: Path) -> None:
    output = call(clone, "dvc", "exp", "run", "-S", "evaluate.continuation.questions=10")
    assert stages_run(output) == ["evaluate", "release", "publish"]
    assert "evaluate.continuation.questions" in call(clone, "dvc", "params", "diff", "--md")
    assert "bits_per_byte" in call(clone, "dvc", "metrics", "show", "--md")
