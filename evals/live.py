"""lm-eval tasks on a model in training: its own forward pass, in its own layout, answers them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from evals.harness import TemplateLM, load_tasks, rolling_windows, run_in_memory
from evals.tokenizer import load_tokenizer, tokenize
from model.data.batches import Batch
from model.settings import LiveTasks
from stages.errors import UserError

Scores = Callable[[Iterator[Batch]], Iterator[tuple[Tensor, Tensor, Tensor]]]
"""From batches to labels, their losses in nats and whether they are the likeliest tokens, `[b, s]`, batch by batch."""
SECTION = "pretrain.eval_tasks"


def load_live(tasks: LiveTasks) -> dict[str, Any]:
    """Return the tasks, read once a process; a run calls this before its first step, so that they fail then.

    Raises:
        UserError: A name is not known, its data is not on this machine, or it wants generated text.
    """
    return load_tasks(tuple(tasks.tasks), Path(tasks.include_path) if tasks.include_path else None, SECTION)


def evaluate_live(
    scores: Scores,
    tokenizer: Path,
    tasks: LiveTasks,
    seq_length: int,
    batch_size: int,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Return the metrics of each task by name. Every rank calls this, and each has the same result.

    What is scored, and how, is lm-eval's own Hugging Face backend on the exported model with a context of
    `seq_length`: contexts that are longer lose their start, whole documents are scored in windows.

    Args:
        scores: The model.
        tokenizer: Path of `tokenizer.json`.
        tasks: The tasks.
        seq_length: Tokens of a sequence, the longest context.
        batch_size: Sequences in one forward pass, at most.
        device: Of the batches.

    Raises:
        UserError: As `load_live`; or a text to score is longer than a sequence.
    """
    model = LiveModel(scores, tokenizer.parent, seq_length, batch_size, device)
    return run_in_memory(model, load_live(tasks), tasks.limit)


class LiveModel(TemplateLM):  # type: ignore[misc]  # lm_eval ships no types
    """A model in training as lm-eval asks it."""

    def __init__(self, scores: Scores, tokenizer: Path, seq_length: int, batch_size: int, device: torch.device) -> None:
        super().__init__()
        self._scores = scores
        self.tokenizer = load_tokenizer(tokenizer)
        self._seq_length = seq_length
        self._batch_size = batch_size
        self._to = device

    @property
    def eot_token_id(self) -> int:
        """The id that opens a text without context, which the exported model has for this too."""
        return int(self.tokenizer.eos_token_id)

    def tok_encode(self, string: str, *_: Any, **__: Any) -> list[int]:
        """Return the ids of a text, none added."""
        return tokenize(self.tokenizer, [string])[0]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation after its context, and whether it is the likeliest."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm)
        return answers

    def loglikelihood_rolling(self, requests: list[Any], *_: Any) -> list[float]:
        """Return the log-likelihood of each whole text."""
        windows = [
            rolling_windows(self.tok_encode(text), self.prefix_token_id, self._seq_length)
            for (text,) in (request.args for request in requests)
        ]
        answers = iter(self._loglikelihood_tokens([(("", ""), *pair) for pairs in windows for pair in pairs]))
        return [sum(next(answers)[0] for _ in pairs) for pairs in windows]

    def generate_until(self, *_: Any) -> NoReturn:
        """Never asked: `load_live` refuses such tasks."""
        raise NotImplementedError

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **__: Any
    ) -> list[tuple[float, bool]]:
        rows = [self._row(context, continuation) for _, context, continuation in requests]
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index][0]))
        groups = [order[start : start + self._batch_size] for start in range(0, len(order), self._batch_size)]
        batches = (self._batch([rows[index][0] for index in group]) for group in groups)
        answers: dict[int, tuple[float, bool]] = {}
        for group, (_, losses, is_likeliest) in zip(groups, self._scores(batches), strict=True):
            nats, likeliest = losses.double().cpu(), is_likeliest.cpu()
            for row, index in enumerate(group):
                tokens, first = rows[index]
                scored = slice(first, len(tokens) - 1)
                answers[index] = -nats[row, scored].sum().item(), bool(likeliest[row, scored].all())
        return [answers[index] for index in range(len(rows))]

    def _row(self, context: list[int], continuation: list[int]) -> tuple[list[int], int]:
        """Return the tokens, at most one more than a sequence has, and the place that predicts the first to score."""
        if len(continuation) > self._seq_length:
            raise UserError(
                f"{SECTION}: a continuation of {len(continuation)} tokens is to be scored, more than the "
                f"{self._seq_length} of a sequence; take other tasks, or raise model.seq_length"
            )
        tokens = (context + continuation)[-(self._seq_length + 1) :]
        return tokens, len(tokens) - 1 - len(continuation)

    def _batch(self, rows: list[list[int]]) -> Batch:
        """Return rows, the longest first, as a batch; what fills it up stands after the tokens, which do not see it."""
        length = self._seq_length
        while length % 2 == 0 and length // 2 + 1 >= len(rows[0]):  # few lengths, for compiled layers
            length //= 2
        filled = torch.full((len(rows), length + 1), self.eot_token_id)
        for index, row in enumerate(rows):
            filled[index, : len(row)] = torch.tensor(row)
        positions = torch.arange(length).expand(len(rows), -1)
        tokens, labels, positions = (part.to(self._to) for part in (filled[:, :-1], filled[:, 1:], positions))
        return Batch(tokens, labels, positions, None)
