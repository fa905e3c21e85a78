"""The rows of a training log, one a step that was taken. Imports no torch."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]

TIMING = (
    "seconds",  # of the step: its data, gradients and update
    "tokens_per_second",  # of the step, over all processes
    "mfu",  # of the step: model FLOPs over what the processes could do at their peak
    "data_seconds",  # of these seconds, those that rank 0 waited for data
    "checkpoint_seconds",  # that saving held training up before the step, not among its seconds
    "joules",  # of the step, over all processes
    "joules_measured",  # false if estimated
)
"""Fields that differ between two equal runs. They stand in the live log, not in the results."""


def read(path: Path) -> list[Row]:
    """Return the rows of a log; a last line cut short by a kill is left out."""
    return [row for row, _ in _rows(path)] if path.exists() else []


def rewind(path: Path, step: int) -> list[Row]:
    """Cut a log off after the row of a step, make it if it is not there, and return the rows that stay.

    A crash of the machine can leave anything after the last row that was synced; the log ends before it too.
    """
    path.touch()
    rows, length = [], 0
    with contextlib.suppress(ValueError):
        for row, end in _rows(path):
            if row["step"] > step:
                break
            rows.append(row)
            length = end
    os.truncate(path, length)
    return rows


def _rows(path: Path) -> Iterator[tuple[Row, int]]:
    """Yield each whole row and the place in bytes where it ends."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            yield json.loads(line), end


def without_timing(row: Row) -> Row:
    """Return the part of a row that two equal runs share."""
    return {name: value for name, value in row.items() if name not in TIMING}


def scalars(row: Row) -> dict[str, float]:
    """Return the numbers of a row by name, those of a table in it as `table/name`."""
    numbers: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            numbers |= {f"{name}/{inner}": number for inner, number in scalars(value).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[name] = value
    return numbers


def describe(event: Row) -> str:
    """Return an event of a row as a sentence for people."""
    back = "" if event["back_to"] is None else f" to step {event['back_to']}"
    return f"step {event['step']}: {event['kind']} ({event['value']}): {event['action']}{back}"


def summary(rows: list[Row]) -> str:
    """Return what came of a run, in lines for people.

    Args:
        rows: The live log, timing included; not empty.
    """
    last = rows[-1]
    seconds, held_up = _sum(rows, "seconds"), _sum(rows, "checkpoint_seconds")
    lines = [
        f"steps        {last['step']:,} ({last['tokens']:,} tokens)",
        f"loss         {last['loss']:.4f}{_validation(rows)}",
        f"speed        {_mean(rows, 'tokens_per_second'):,.0f} tokens/s, MFU {_mean(rows, 'mfu'):.1%}",
        f"time         {_duration(seconds + held_up)}, of it waiting for data "
        f"{_sum(rows, 'data_seconds') / (seconds + held_up):.2%}, for checkpoints {held_up / (seconds + held_up):.2%}",
        f"energy       {_energy(rows)}",
    ]
    events = [describe(event) for row in rows for event in row.get("events", [])]
    return "\n".join([*lines, f"events       {len(events)}", *(f"  {event}" for event in events)])


def _sum(rows: list[Row], name: str) -> float:
    return math.fsum(row.get(name, 0.0) for row in rows)


def _mean(rows: list[Row], name: str) -> float:
    """Return the mean of a rate over the time of the steps."""
    return math.fsum(row[name] * row["seconds"] for row in rows) / _sum(rows, "seconds")


def _validation(rows: list[Row]) -> str:
    measured = [row["validation"] for row in rows if "validation" in row]
    if not measured:
        return ""
    return f", on validation text {measured[-1]['loss']:.4f} ({measured[-1]['bits_per_byte']:.4f} bits a byte)"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min {rest:02d} s"


def _energy(rows: list[Row]) -> str:
    how = "measured" if all(row["joules_measured"] for row in rows) else "estimated"
    joules = _sum(rows, "joules")
    return f"{joules / 1e3:,.2f} kJ ({how})" if joules < 1e6 else f"{joules / 3.6e6:,.2f} kWh ({how})"
