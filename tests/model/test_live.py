import json
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import RollingCheckpoints
from model.live import LiveLog
from model.log import read
from stages.errors import UserError


def row(step: int) -> dict[str, Any]:
    return {"step": step, "tokens": step * 8, "loss": 1 / step, "grad_norm": 1.0, "learning_rate": 0.1, "seconds": 0.5}


def test_a_log_is_rewound_to_the_checkpoint_and_goes_on_as_if_never_cut(tmp_path: Path) -> None:
    for folder, cut in ((tmp_path / "straight", None), (tmp_path / "cut", 3)):
        folder.mkdir()
        log = LiveLog(folder, 0, steps=6, tokens_per_step=8)
        for step in range(1, (5 if cut else 6) + 1):
            log.add(row(step))
        log.close()
    with (tmp_path / "cut" / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "to')  # a kill in the middle of a line
    again = LiveLog(tmp_path / "cut", 3, steps=6, tokens_per_step=8)
    assert [entry["step"] for entry in read(tmp_path / "cut" / "log.jsonl")] == [1, 2, 3]
    for step in (4, 5, 6):
        again.add(row(step))
    again.close()
    files = [file.relative_to(tmp_path / "cut") for file in (tmp_path / "cut").rglob("*") if file.is_file()]
    assert files
    for name in files:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_log_shorter_than_its_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps(row(1)) + "\n")
    with pytest.raises(UserError, match="ends at step 1, its checkpoint at 3; delete"):
        LiveLog(tmp_path, 3, steps=6, tokens_per_step=8)


def test_the_newest_whole_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoints = RollingCheckpoints(tmp_path)
    for step in (5, 10, 15):
        checkpoints.path(step).mkdir()
    (tmp_path / "step-00000020.partial").mkdir()
    assert checkpoints.steps() == [5, 10, 15]
    checkpoints.prune()
    assert checkpoints.steps() == [10, 15]
