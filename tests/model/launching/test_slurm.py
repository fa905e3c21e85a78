"""Jobs through Slurm, of which these tests have stand-ins: they run the batch script, and a job queued again twice."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from model.launching import slurm
from model.launching.runtime import RuntimeSettings, SlurmLaunch
from stages.errors import UserError
from stages.files import read_json
from stages.settings import validate
from tests.model import counting

SBATCH = """#!/bin/bash
# Runs the script as one job, again as often as scontrol has said so, and ends as it does.
script="${@: -1}"
bash -n "$script" || exit 2
output=$(sed -n 's/^#SBATCH --output=//p' "$script")
echo 17
export SLURM_JOB_ID=17 SLURM_JOB_NODELIST="node[1-2]"
while true; do
    rm -f "$HERE/requeue"
    bash "$script" >> "$output" 2>&1
    code=$?
    [ -e "$HERE/requeue" ] || exit "$code"
done
"""
SCONTROL = """#!/bin/bash
case "$1 $2" in
    "show hostnames") [ "$3" = "node[1-2]" ] && echo localhost && echo localhost ;;
    "requeue 17") touch "$HERE/requeue" ;;
    *) exit 1 ;;
esac
"""
SRUN = """#!/bin/bash
# Runs the command on two nodes, which are here; reaches the time limit of its first job, and only of that.
while [[ "$1" == --* ]]; do shift; done
"$@" & nodes=$!
"$@" & nodes="$nodes $!"
if [ ! -e "$HERE/limited" ]; then
    touch "$HERE/limited"
    until grep -q '"step": [1-9][0-9]' "$HERE/run/counted.json" 2> "$HERE/waiting"; do sleep 0.1; done
    kill -TERM $nodes
fi
code=0
for node in $nodes; do
    wait "$node"
    ended=$?
    code=$(( ended > code ? ended : code ))
done
exit "$code"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins of Slurm's commands, which are on PATH."""
    for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL), ("srun", SRUN)):
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(text)
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HERE", str(tmp_path))
    (tmp_path / "run").mkdir()
    return tmp_path


def settings(**launch: Any) -> RuntimeSettings:
    return counting.runtime({"kind": "slurm", "nodes": 2, **launch})


def script(**launch: Any) -> str:
    """The batch script of the settings."""
    slurm_launch = settings(**launch).launch
    assert isinstance(slurm_launch, SlurmLaunch)
    return slurm.script(counting.job(), slurm_launch, Path("/runs/a run"), ("-m", "a worker"))


@pytest.mark.e2e
def test_a_job_that_reaches_its_time_limit_is_queued_again_and_ends_as_one_that_did_not(here: Path) -> None:
    folder = here / "run"
    stage = counting.start(folder, settings(port=29411), 60, 0.05)
    _, errors = stage.communicate(timeout=120)
    said = errors.decode()
    assert stage.returncode == 0, said
    assert "Slurm job 17 is in the queue" in said
    assert b"\rstep 60" in errors, "the job's log must be on the screen"
    assert read_json(folder / "results.json") == counting.counted(60, 2)
    assert (here / "limited").exists()
    assert (folder / "ranks" / "rank-00001" / "0002.log").exists(), "it must have been started twice"


def test_the_script_is_bash_and_keeps_options_and_paths_whole() -> None:
    text = script(sbatch={"time": "2-00:00:00", "comment": 'it\'s a "run"', "exclusive": ""}, save_seconds=90)
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    options = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    parsed = subprocess.run(["bash"], input=f"printf '%s\n' {' '.join(options)}", text=True, capture_output=True)
    assert {"--time=2-00:00:00", '--comment=it\'s a "run"', "--exclusive"} < set(parsed.stdout.splitlines())
    assert {"--nodes=2", "--requeue", "--open-mode=append", "--signal=TERM@90"} < set(parsed.stdout.splitlines())
    assert "--output=/runs/a run/slurm.log" in parsed.stdout.splitlines()
    assert "-m model.launching.slurm '/runs/a run' \"$first:29400\" -m 'a worker'\n" in text


@pytest.mark.parametrize("name", ["requeue", "signal", "nodes", "dependency"])
def test_an_option_that_the_script_needs_for_itself_is_refused(name: str) -> None:
    launch = {"kind": "slurm", "nodes": 2, "sbatch": {name: "1"}}
    with pytest.raises(UserError, match=f"'{name}' is set by openbase"):
        validate("runtime.launch", SlurmLaunch, launch, "params.yaml")


def test_a_job_that_was_cancelled_before_it_ran_is_not_finished(here: Path) -> None:
    (here / "bin" / "sbatch").write_text("#!/bin/bash\necho 17\n")  # as sbatch ends then: well
    launch = settings().launch
    assert isinstance(launch, SlurmLaunch)
    with pytest.raises(UserError, match="ended with exit code 0 before its last step"):
        slurm.run(counting.job(), launch, here / "run", ())


def test_what_sbatch_refuses_and_that_it_is_missing_is_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = settings().launch
    assert isinstance(launch, SlurmLaunch)
    (here / "bin" / "sbatch").write_text("#!/bin/bash\nexit 1\n")
    with pytest.raises(UserError, match="sbatch has refused the job"):
        slurm.run(counting.job(), launch, here / "run", ())
    monkeypatch.setenv("PATH", str(here))
    with pytest.raises(UserError, match="there is no sbatch here"):
        slurm.run(counting.job(), launch, here / "run", ())
