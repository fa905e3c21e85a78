"""Which tasks the training documents were checked against, and what becomes of an evaluation on others."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from stages.curation.benchmarks import Manifest
from stages.errors import UserError

UncoveredTasks = Literal["refuse", "admit"]
"""What to do about tasks that curation was not checked against: stop, or go on and say so on the card."""
_NAMED = 8


class Against(TypedDict):
    """Evaluation data that the training documents were checked against."""

    benchmark: str
    """Its name in curation."""
    sha256: str
    """Its digest, by `stages.files.sha256_tree`."""


def covered(asked: Mapping[str, Sequence[str]], checked: Manifest) -> dict[str, Against]:
    """Return the data of each task that the training documents were checked against, by task.

    Args:
        asked: The names of `evaluate.tasks`, each with the tasks that lm-eval takes it for: those of a group or tag,
            or itself. What curation says of a group by its own name, it says of all its tasks.
        checked: What curation wrote of its evaluation data.
    """
    found: dict[str, Against] = {}
    for name, tasks in asked.items():
        for task in tasks:
            if benchmark := checked.benchmark_of(task) or checked.benchmark_of(name):
                found.setdefault(task, Against(benchmark=benchmark, sha256=checked.benchmarks[benchmark].sha256))
    return found


def uncovered(asked: Mapping[str, Sequence[str]], checked: Manifest) -> list[str]:
    """Return the tasks whose data the training documents were not checked against, in order of name.

    Args:
        asked: As for `covered`.
        checked: As for `covered`.
    """
    return sorted({task for tasks in asked.values() for task in tasks} - covered(asked, checked).keys())


def check(asked: Mapping[str, Sequence[str]], checked: Manifest, policy: UncoveredTasks) -> None:
    """Check that the training documents were checked against all tasks, unless the policy is to admit others.

    Args:
        asked: As for `covered`.
        checked: As for `covered`.
        policy: The value of `evaluate.uncovered_tasks`.

    Raises:
        UserError: There are others, and the policy is to refuse them.
    """
    found = uncovered(asked, checked)
    if found and policy == "refuse":
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise UserError(
            f"evaluate.tasks: the training documents were not checked against the data of "
            f"{', '.join(found[:_NAMED])}{more}, so what the model scores may be what it has seen. Name the data in a "
            "`contamination` step of curate.chains, with these tasks, or set evaluate.uncovered_tasks to 'admit': the "
            "card then says it."
        )
