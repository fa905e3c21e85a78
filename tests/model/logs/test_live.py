import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from model.logs.live import LiveLog
from model.logs.log import TIMING, read, rewind, summary, without_timing
from stages.errors import UserError
from tests.model.logged import STEPS, event, job, progress, row, runtime


def start(folder: Path, step: int = 0, **changes: object) -> LiveLog:
    folder.mkdir(exist_ok=True)
    return LiveLog(folder, job(), runtime(), progress(step, **changes))


def steps(log: LiveLog, first: int, last: int, take: int = 0) -> None:
    for step in range(first, last + 1):
        log.add(row(step, take))


def straight(folder: Path, take: int = 0) -> None:
    """Write a log whose steps from the fourth on are of a take."""
    log = start(folder)
    steps(log, 1, 3)
    steps(log, 4, STEPS, take)
    log.close()


def killed(folder: Path) -> None:
    steps(start(folder), 1, 5)
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "to')
    again = start(folder, 3)
    assert [entry["step"] for entry in read(folder / "log.jsonl")] == [1, 2, 3]
    steps(again, 4, STEPS)
    again.close()


def crashed(folder: Path) -> None:
    steps(start(folder), 1, 3)
    with (folder / "log.jsonl").open("ab") as file:
        file.write(b"\0\0\0\n" + json.dumps(row(4)).encode() + b"\n")
    again = start(folder, 3)
    steps(again, 4, STEPS)
    again.close()


def killed_before_a_checkpoint(folder: Path) -> None:
    steps(start(folder), 1, 2)
    again = start(folder)
    steps(again, 1, STEPS)
    again.close()


def rolled_back(folder: Path) -> None:
    log = start(folder)
    steps(log, 1, 5)
    log.rewind(3)
    steps(log, 4, STEPS, take=1)
    log.close()


def rolled_back_and_killed(folder: Path) -> None:
    log = start(folder)
    steps(log, 1, 5)
    log.rewind(3)
    steps(log, 4, 8, take=1)
    again = start(folder, 6)
    steps(again, 7, STEPS, take=1)
    again.close()


@pytest.mark.parametrize(
    ("disturbed", "take"),
    [(killed, 0), (crashed, 0), (killed_before_a_checkpoint, 0), (rolled_back, 1), (rolled_back_and_killed, 1)],
)
def test_log_and_plots_are_those_of_a_run_that_was_not_disturbed(
    tmp_path: Path, disturbed: Callable[[Path], None], take: int
) -> None:
    straight(tmp_path / "straight", take)
    (tmp_path / "disturbed").mkdir()
    disturbed(tmp_path / "disturbed")
    written = [
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (tmp_path / "straight", tmp_path / "disturbed")
    ]
    assert written[0] == written[1]
    plots = {str(path) for path in written[0]} - {"log.jsonl"}
    assert {"loss", "z_loss", "validation/bits_per_byte", "tasks/arc_easy/acc"} <= {
        plot.removeprefix("plots/plots/metrics/").removesuffix(".tsv") for plot in plots
    }


def test_a_log_shorter_than_its_checkpoint_is_refused(tmp_path: Path) -> None:
    log = start(tmp_path)
    steps(log, 1, 1)
    log.close()
    with pytest.raises(UserError, match=r"ends at step 1, its checkpoint at 3; delete"):
        start(tmp_path, 3)


def test_a_step_that_was_skipped_has_no_row_and_is_not_missed(tmp_path: Path) -> None:
    log = start(tmp_path)
    steps(log, 1, 2)
    log.close()
    start(tmp_path, 3, events=[event(step=3, action="skip")]).close()
    with pytest.raises(UserError, match="ends at step 2, its checkpoint at 4"):
        start(tmp_path, 4, events=[event(step=4, action="skip")])
    with pytest.raises(UserError, match="ends at step 2, its checkpoint at 3"):
        start(tmp_path, 3, events=[event(step=5, action="skip"), event(step=6, action="roll_back", back_to=3)])


def test_the_log_of_a_branch_begins_after_the_checkpoint_it_began_with(tmp_path: Path) -> None:
    log = LiveLog(tmp_path, job(), runtime(), progress(6), branched_at=6)
    steps(log, 7, STEPS)
    log.close()
    assert [entry["step"] for entry in read(tmp_path / "log.jsonl")] == list(range(7, STEPS + 1))


def test_the_progress_line_tells_where_the_run_is_and_what_happened_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = start(tmp_path)
    steps(log, 1, 3)
    steps(log, 4, 5, take=1)
    log.close()
    printed = capsys.readouterr().err
    happened = (
        "step 6: loss_spike (loss 9 is 7.0 standard deviations above 2, the mean of 3 steps): roll_back to step 3"
    )
    assert f"\n{happened}\n" in printed.replace("\r", "\n")
    line = printed.split("\r")[-1]
    assert line.startswith("42% of 384 tokens")
    assert f"step 5/12, loss 2.200, 0.625 bits/byte, MFU 40.0%, {happened}" in line


def test_a_run_that_continues_still_knows_its_last_measure_and_event(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = start(tmp_path)
    steps(log, 1, 6, take=1)
    log.close()
    capsys.readouterr()
    again = start(tmp_path, 6)
    again.add(row(7))
    again.close()
    line = capsys.readouterr().err.split("\r")[-1]
    assert line.startswith("58%")
    assert "step 7/12, loss 0.857, 0.625 bits/byte, MFU 40.0%, step 6: loss_spike" in line


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(tmp_path: Path) -> None:
    log = start(tmp_path)
    steps(log, 1, 3)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "log.jsonl").stat().st_size + 10, limit[1]))
        with pytest.raises(UserError, match=r"step 4 cannot be logged: .*; make room, and start again"):
            log.add(row(4))
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    again = start(tmp_path, 3)
    steps(again, 4, STEPS)
    again.close()
    assert [entry["step"] for entry in read(tmp_path / "log.jsonl")] == list(range(1, STEPS + 1))


def test_a_log_can_be_rewound_before_it_is_there(tmp_path: Path) -> None:
    assert rewind(tmp_path / "log.jsonl", 3) == []
    assert (tmp_path / "log.jsonl").read_bytes() == b""


def test_timing_alone_is_taken_out_of_the_results() -> None:
    assert row(4).keys() - without_timing(row(4)).keys() == set(TIMING)


def test_the_summary_weighs_steps_by_their_time_and_lists_events() -> None:
    rows = [row(step, take=1) for step in range(1, STEPS + 1)]
    rows[0] |= {"seconds": 22.0, "tokens_per_second": 1.0, "mfu": 0.1}
    assert summary(rows).splitlines() == [
        "steps        12 (384 tokens)",
        "loss         1.5000, on validation text 1.5000 (0.3750 bits a byte)",
        "speed        8 tokens/s, MFU 25.0%",
        "time         0 h 00 min 46 s, of it waiting for data 0.52%, for checkpoints 4.35%",
        "energy       0.24 kJ (estimated)",
        "events       1",
        "  step 6: loss_spike (loss 9 is 7.0 standard deviations above 2, the mean of 3 steps): roll_back to step 3",
    ]
