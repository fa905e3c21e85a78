"""The fused output layer and loss against torch's definitions in float64, on one process and split over two."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from model import parallel
from model.layout import LayoutSettings
from model.network import loss
from model.network.loss import output_losses, token_scores
from tests.model.two_processes import TwoProcesses

ROWS = 128
"""Of the table, padding included."""


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    with parallel.processes(LayoutSettings(), "cpu", num_threads=1, seed=0):
        yield


def draw(vocab_size: int, s: int = 6, b: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden `[s, b, h]`, a table with rows of padding that would change every loss, and labels `[b, s]`."""
    generator = torch.Generator().manual_seed(seed)
    hidden, table = (torch.randn(*shape, 8, generator=generator, dtype=torch.float64) for shape in ((s, b), (ROWS,)))
    labels = torch.randint(0, vocab_size, (b, s), generator=generator)
    return hidden, table, labels


def by_definition(hidden: Tensor, table: Tensor, labels: Tensor, vocab_size: int) -> Tensor:
    logits = (hidden @ table[:vocab_size].t()).transpose(0, 1)
    entropy = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    return torch.stack((entropy, logits.logsumexp(-1).square()))


def total(losses: Tensor, z_loss: float) -> Tensor:
    return losses[0].mean() + z_loss * losses[1].mean()


def with_gradients(
    losses: Callable[..., Tensor], hidden: Tensor, table: Tensor, labels: Tensor, vocab_size: int, z_loss: float
) -> tuple[Tensor, ...]:
    hidden, table = hidden.clone().requires_grad_(), table.clone().requires_grad_()
    out = losses(hidden, table, labels, vocab_size)
    return (out, *torch.autograd.grad(total(out, z_loss), (hidden, table)))


@settings(deadline=None, max_examples=30)
@given(
    vocab_size=st.integers(1, ROWS),
    s=st.integers(1, 9),
    b=st.integers(1, 3),
    z_loss=st.sampled_from([0.0, 1e-4, 0.3]),
    at_a_time=st.integers(1, 4000),
)
def test_losses_and_gradients_are_those_of_the_definition_in_any_chunks(
    vocab_size: int, s: int, b: int, z_loss: float, at_a_time: int
) -> None:
    inputs = draw(vocab_size, s, b)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(loss.LOGITS, "cpu", at_a_time)
        ours = with_gradients(functools.partial(output_losses, z_loss=z_loss), *inputs, vocab_size, z_loss)
    for mine, reference in zip(ours, with_gradients(by_definition, *inputs, vocab_size, z_loss), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


def test_tokens_without_a_label_have_no_loss_and_no_part_in_the_gradients() -> None:
    hidden, table, labels = draw(100)
    labelled = torch.randint(0, 2, labels.shape, generator=torch.Generator().manual_seed(0)).bool()
    ours = with_gradients(functools.partial(output_losses, labelled=labelled), hidden, table, labels, 100, 0.0)
    assert torch.count_nonzero(ours[0]) == 2 * labelled.sum()

    def masked(*args: Any) -> Tensor:
        return by_definition(*args) * labelled

    for mine, reference in zip(ours, with_gradients(masked, hidden, table, labels, 100, 0.0), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_below_float64_the_softmax_and_the_sum_over_chunks_are_float32(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loss.LOGITS, "cpu", 100 * 64)  # eight chunks
    hidden, table, labels = draw(100, s=128, b=4)
    hidden, table = hidden.to(dtype), table.to(dtype)
    ours = with_gradients(output_losses, hidden, table, labels, 100, 0.0)
    reference = with_gradients(by_definition, hidden.double(), table.double(), labels, 100, 0.0)
    assert ours[0].dtype == torch.float32
    assert [x.dtype for x in ours[1:]] == [dtype, dtype]
    for mine, exact in zip(ours, reference, strict=True):
        assert (mine.double() - exact).norm() <= tolerance * exact.norm()


def test_rows_of_padding_have_no_gradient() -> None:
    *_, grad_table = with_gradients(output_losses, *draw(100), 100, 0.0)
    assert grad_table[:100].abs().sum(dim=1).min() > 0
    assert torch.count_nonzero(grad_table[100:]) == 0


def test_logits_of_hundreds_are_no_overflow() -> None:
    hidden, table, labels = draw(100)
    ours = with_gradients(output_losses, 300 * hidden.float(), table.float(), labels, 100, 0.0)
    assert all(x.isfinite().all() for x in ours)


@pytest.mark.parametrize(
    "loss_of",
    [
        lambda losses: losses[0, 0].sum(),
        lambda losses: losses[0].mean() + 0.2 * losses[1].mean(),
        lambda losses: losses[1].mean(),
    ],
)
def test_a_loss_that_was_not_announced_is_refused(loss_of: Callable[[Tensor], Tensor]) -> None:
    hidden, table, labels = draw(100)
    losses = output_losses(hidden.requires_grad_(), table, labels, 100, z_loss=0.1)
    with pytest.raises(RuntimeError, match="not a multiple of"):
        loss_of(losses).backward()


def test_scores_are_the_losses_and_whether_the_label_is_likeliest() -> None:
    hidden, table, labels = draw(100)
    logits = (hidden @ table.t()).transpose(0, 1)
    likeliest = logits[..., :100].argmax(-1)
    labels = torch.where(torch.arange(labels.numel()).view_as(labels) % 2 == 0, labels, likeliest)
    losses, is_greedy = token_scores(logits, labels, 100)
    torch.testing.assert_close(losses, by_definition(hidden, table, labels, 100)[0].float())
    assert torch.equal(is_greedy, labels == likeliest)
    assert 0 < is_greedy.sum() < is_greedy.numel()


def check_split(sequence_parallel: bool, vocab_size: int) -> None:
    """Compare this rank's part of everything with the definition on the whole."""
    layout = LayoutSettings(tensor_model_parallel_size=2, sequence_parallel=sequence_parallel)
    with parallel.processes(layout, "cpu", num_threads=1, seed=0):
        rank = parallel.tensor_parallel_rank()
        hidden, table, labels = draw(vocab_size)
        whole = with_gradients(by_definition, hidden, table, labels, vocab_size, 0.1)
        own_hidden = hidden.chunk(2)[rank] if sequence_parallel else hidden
        split = functools.partial(output_losses, z_loss=0.1, sequence_parallel=sequence_parallel)
        ours = with_gradients(split, own_hidden, table.chunk(2)[rank], labels, vocab_size, 0.1)
        own = (whole[0], whole[1].chunk(2)[rank] if sequence_parallel else whole[1], whole[2].chunk(2)[rank])
        for mine, reference in zip(ours, own, strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)
        scores, is_greedy = token_scores((hidden @ table.chunk(2)[rank].t()).transpose(0, 1), labels, vocab_size)
        torch.testing.assert_close(scores, whole[0][0].float())
        likeliest = (hidden @ table[:vocab_size].t()).argmax(-1).t()
        assert torch.equal(is_greedy, labels == likeliest)


@pytest.mark.parametrize("sequence_parallel", [False, True])
@pytest.mark.parametrize("vocab_size", [100, 40])  # 40: the second shard is padding alone
def test_two_tensor_parallel_processes_agree_with_one(
    two_processes: TwoProcesses, sequence_parallel: bool, vocab_size: int
) -> None:
    two_processes(check_split, sequence_parallel, vocab_size)
