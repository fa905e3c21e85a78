"""Which tasks the training documents were checked against, and what becomes of an evaluation on others."""

from typing import Literal

from stages.curation.benchmarks import Manifest
from stages.errors import UserError

UncoveredTasks = Literal["refuse", "admit"]
"""What to do about tasks that curation was not checked against: stop, or go on and say so on the card."""


def uncovered(tasks: tuple[str, ...], checked: Manifest | None, policy: UncoveredTasks) -> list[str]:
    """Return the tasks whose data the training documents were not checked against, in their order.

    Args:
        tasks: The names of `evaluate.tasks`, as lm-eval knows them; a group is covered under its own name.
        checked: What curation wrote of its evaluation data; None where it was given none.
        policy: The value of `evaluate.uncovered_tasks`.

    Raises:
        UserError: There are such tasks and the policy is to refuse them.
    """
    covered = checked.covered(list(tasks)) if checked else []
    found = [task for task in tasks if task not in covered]
    if found and policy == "refuse":
        raise UserError(
            f"evaluate.tasks: the training documents were not checked against the data of {', '.join(found)}, so what "
            "the model scores may be what it has seen. Name the data in a `contamination` step of curate.chains, with "
            "these tasks, or set evaluate.uncovered_tasks to 'admit': the card then says it."
        )
    return found
