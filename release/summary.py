"""What a run came to, for the person who started it: `python -m release.summary`."""

import sys
from pathlib import Path
from typing import Any

from release import facts, sums
from stages.errors import UserError
from stages.files import OUT

RELEASE = OUT / "release"
COLUMNS = {
    "model": "model",
    "unigram": "unigram",
    "xz_document": "xz -9e",
    "zstd_document": "zstd -19",
    "xz_concatenated": "xz -9e, joined",
    "zstd_concatenated": "zstd -19, joined",
}
NEXT = """\
Next:
  python -m release.verify out/release                    recompute everything the release states
  dvc exp run -S evaluate.documents=20 evaluate           evaluate with a changed parameter; nothing before it runs
  dvc exp run -S publish.target=hub -S publish.hub.repo_id=NAMESPACE/NAME publish
                                                          publish to the Hub, with HF_TOKEN in the environment
  python -m stages.params gpu-120m                        take the parameters for one GPU; see README for real data
  dvc metrics show; dvc plots show                        every metric, every curve
"""


def text(root: Path) -> str:
    """Return the summary of the release at `root`."""
    paths = sums.read(root)
    known = facts.read(root)
    size = sum((root / path).stat().st_size for path in paths)
    release, metrics = known.params["release"], known.metrics
    lines = [
        f"{release['name']} {release['version']} is in {root} ({len(paths)} files, {size / 1e6:.1f} MB)",
        f"release digest {sums.digest(root)}",
        "",
        f"{metrics['parameters']:,} parameters, {metrics['tokens']:,} tokens seen in {metrics['steps']:,} steps; "
        f"validation {metrics['validation_bits_per_byte']:.4f} bits per byte",
        "",
        "Held-out test split: bits per byte (lower is better) and accuracy of continuation, ± one standard error",
        *_table(_rows(known.results)),
        "",
        NEXT,
    ]
    return "\n".join(lines)


def _rows(results: dict[str, Any]) -> list[list[str]]:
    rows = [["domain", *COLUMNS.values(), "accuracy", "per character", "chance"]]
    for domain, part in sorted(results["bits_per_byte"].items()):
        questions = results["continuation"].get(domain)
        accuracies = [_estimate(questions[name]) for name in ("accuracy", "accuracy_norm")] if questions else ["", ""]
        chance = f"{questions['chance']:.3f}" if questions else ""
        rows.append([domain, *(_estimate(part[name]) for name in COLUMNS), *accuracies, chance])
    return rows


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _estimate(entry: dict[str, float]) -> str:
    value = f"{entry['value']:.3f}"
    return f"{value} ± {entry['stderr']:.3f}" if "stderr" in entry else value


def main() -> None:
    """Print the summary."""
    try:
        sys.stdout.write(text(RELEASE))
    except UserError as error:
        sys.exit(f"summary: {error}")


if __name__ == "__main__":
    main()
