"""The rows of a training log. Imports no torch."""

import json
from pathlib import Path
from typing import Any

TIMING = ("seconds", "tokens_per_second")
"""Fields that differ between two equal runs. They stand in the live log, not in the results."""


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a log; a last line cut short by a kill is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def without_timing(row: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a row that two equal runs share."""
    return {name: value for name, value in row.items() if name not in TIMING}
