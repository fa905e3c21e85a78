"""What a run tells while it goes: one JSON line a step, DVCLive plots, and a progress bar."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from dvclive.live import Live
from tqdm import tqdm

from model.log import read
from stages.errors import UserError


class LiveLog:
    """The log of one run in its scratch folder, rewound to the step of the checkpoint that a run continues from.

    Args:
        folder: The scratch folder; `log.jsonl` and `plots/` are in it.
        resume_step: Keep this many lines of an earlier attempt.
        steps: Steps of the whole run.
        tokens_per_step: Tokens of one step.

    Raises:
        UserError: The log of the earlier attempt is shorter than its checkpoint.
    """

    def __init__(self, folder: Path, resume_step: int, steps: int, tokens_per_step: int) -> None:
        self._path = folder / "log.jsonl"
        self._plots = folder / "plots"
        rows = read(self._path)[:resume_step]
        if len(rows) < resume_step:
            raise UserError(
                f"'{self._path}' ends at step {len(rows)}, its checkpoint at {resume_step}; delete '{folder}'"
            )
        rewound = self._path.with_suffix(".partial")
        rewound.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        rewound.replace(self._path)
        shutil.rmtree(self._plots, ignore_errors=True)
        self._live = Live(str(self._plots), save_dvc_exp=False, dvcyaml=None, report=None)
        for row in rows:
            self._plot(row)
        self._bar = tqdm(
            total=steps * tokens_per_step,
            initial=resume_step * tokens_per_step,
            unit="tok",
            unit_scale=True,
            desc="pretrain",
            file=sys.stderr,
            mininterval=1.0,
        )
        self._tokens_per_step = tokens_per_step

    def add(self, row: dict[str, Any]) -> None:
        """Write a step's row: step, tokens, loss, grad_norm, learning_rate, timing and, at times, validation."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        self._plot(row)
        self._bar.set_postfix_str(_headline(row), refresh=False)
        self._bar.update(self._tokens_per_step)

    def _plot(self, row: dict[str, Any]) -> None:
        self._live.step = row["step"]
        for name in ("loss", "grad_norm", "learning_rate"):
            self._live.log_metric(name, row[name], plot=True)
        for name in ("loss", "bits_per_byte"):
            if "validation" in row:
                self._live.log_metric(f"validation_{name}", row["validation"][name], plot=True)

    def close(self) -> None:
        """Leave the terminal tidy."""
        self._bar.close()


def _headline(row: dict[str, Any]) -> str:
    text = f"step {row['step']}, loss {row['loss']:.3f}"
    if "validation" in row:
        text += f", validation {row['validation']['bits_per_byte']:.3f} bits/byte"
    return text
