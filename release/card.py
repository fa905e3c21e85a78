"""The model card: a template filled from the release's own files, so that a verifier can write it again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from release import data, facts
from release.metadata import front_matter

TEMPLATE = Path(__file__).with_name("card.md.jinja")


def render(root: Path) -> str:
    """Return README.md for the release at `root`; it depends on nothing but the release's other files."""
    known = facts.read(root)
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.globals.update(count=_count, estimate=_estimate, flat=flat, data=data)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        vars(known),
        release=known.params["release"],
        front_matter=front_matter(known),
        per_parameter=known.metrics["tokens"] / known.metrics["parameters"],
    )


def flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of the leaves of a nested dictionary, in order of name."""
    for name, value in sorted(tree.items()):
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _count(number: int) -> str:
    return f"{number:,}"


def _estimate(entry: dict[str, float]) -> str:
    value = f"{entry['value']:.4f}"
    return f"{value} ± {entry['stderr']:.4f}" if "stderr" in entry else value
