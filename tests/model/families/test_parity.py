"""Megatron-Core's model is that of `transformers`: in logits, loss and gradients, whole and split, and on disk."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from model import parallel
from model.checkpoints import checkpoint
from model.convert import unsplit
from model.data.batches import Batch
from model.families.family import ModelSettings, by_name
from model.families.weights import fill, tensors
from model.layout import LayoutSettings
from model.network.decoder import Decoder
from model.trainer import Trainer
from tests.model import optimizing
from tests.model.families import table

TEXT = torch.randint(2, table.VOCAB_SIZE, (2, 49), generator=torch.Generator().manual_seed(3))
"""Without the padding id, whose embedding `transformers` gives no gradient."""
TOKENS, LABELS = TEXT[:, :-1].contiguous(), TEXT[:, 1:].contiguous()
POSITIONS = torch.arange(48).expand(2, -1)
LOGITS = 2e-5
"""Largest difference of a logit."""
RELATIVE = 1e-5
"""Largest difference of the loss, and of the gradient of a weight in the L2 norm, relative."""


@pytest.fixture
def one_process() -> Iterator[None]:
    with unsplit.process(num_threads=1, seed=1):
        yield


def megatron_model(model: ModelSettings, disk: dict[str, Tensor]) -> Decoder:
    """Return the unsplit model of a checkpoint."""
    decoder = unsplit.build(model, table.VOCAB_SIZE)
    own = decoder.state_dict()
    for weight in model.weights(table.VOCAB_SIZE):
        fill(weight, own[weight.megatron], disk.__getitem__)
    return decoder.eval()  # type: ignore[no-any-return]


def gradients(model: ModelSettings, network: Any, decoder: Decoder) -> tuple[float, dict[str, Tensor]]:
    """Return `transformers`' loss, and its gradients by the names and in the shapes of Megatron-Core."""
    logits = network(TOKENS).logits
    loss = functional.cross_entropy(logits.flatten(0, 1), LABELS.flatten())
    loss.backward()
    given = table.on_disk(network, {name: weight.grad for name, weight in network.named_parameters()})
    found, shapes = {}, dict(decoder.named_parameters())
    for weight in model.weights(table.VOCAB_SIZE):
        if weight.megatron in shapes:
            found[weight.megatron] = torch.zeros_like(shapes[weight.megatron])
            fill(weight, found[weight.megatron], given.__getitem__)
            found[weight.megatron][len(found[weight.megatron]) - weight.padding :] = 0
    return loss.item(), found


def require_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, wanted in expected.items():
        off = (found[name] - wanted).norm()
        assert off <= RELATIVE * wanted.norm(), f"{name}: {off:.2e} of {wanted.norm():.2e}"


def test_every_family_has_a_row() -> None:
    assert by_name().keys() == {row["family"] for row in table.ROWS.values()}


@pytest.mark.parametrize("row", table.ROWS)
def test_logits_loss_and_gradients_are_those_of_transformers(row: str, one_process: None) -> None:
    model = table.settings(row)
    network = table.transformers_model(model)
    decoder = megatron_model(model, table.on_disk(network, network.state_dict()))
    with torch.no_grad():
        expected = network(TOKENS).logits
        found = decoder(TOKENS, POSITIONS, None)[..., : table.VOCAB_SIZE]
    assert 2 < expected.abs().max() < 20
    assert (found - expected).abs().max() <= LOGITS
    loss, wanted = gradients(model, network, decoder)
    ours = decoder(TOKENS, POSITIONS, None, labels=LABELS)[0].mean()
    ours.backward()
    assert ours.item() == pytest.approx(loss, rel=RELATIVE)
    require_close({name: weight.grad for name, weight in decoder.named_parameters()}, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
@pytest.mark.parametrize("row", table.ROWS)
def test_a_checkpoint_of_transformers_goes_through_megatron_bit_by_bit(
    row: str, dtype: torch.dtype, one_process: None, tmp_path: Path
) -> None:
    model = table.settings(row)
    table.transformers_model(model, dtype).save_pretrained(tmp_path)
    disk = load_file(tmp_path / "model.safetensors")
    again: dict[str, Tensor] = {}
    own = unsplit.build(model, table.VOCAB_SIZE).state_dict()
    for weight in model.weights(table.VOCAB_SIZE):
        held = torch.full_like(own.pop(weight.megatron), torch.nan, dtype=disk[weight.parts[0]].dtype)
        fill(weight, held, disk.__getitem__)
        again.update(tensors(weight, held))
    assert [name for name, left in own.items() if isinstance(left, Tensor)] == []
    assert again.keys() == disk.keys()
    assert [
        name for name in disk if disk[name].dtype != again[name].dtype or not torch.equal(disk[name], again[name])
    ] == []


LAYOUTS: dict[str, dict[str, Any]] = {
    "tp2": {"tensor_model_parallel_size": 2},
    "tp2 sp": {"tensor_model_parallel_size": 2, "sequence_parallel": True},
    "pp2": {"pipeline_model_parallel_size": 2},
    "ep2": {"data_parallel_size": 2, "expert_model_parallel_size": 2},
    "cp2": {"context_parallel_size": 2},
}


def layouts_of(row: str) -> list[str]:
    """Return what a model is split into: with experts, what Megatron-Core can; with windows, more."""
    model = table.settings(row)
    split = ["tp2 sp", "pp2", "ep2"] if model.experts else ["tp2", "tp2 sp", "pp2"]
    return [*split, "cp2"] if getattr(model, "sliding_window", None) else split


CASES = [(row, layout) for row in table.ROWS for layout in layouts_of(row)]


@pytest.mark.e2e
@pytest.mark.parametrize(("row", "layout"), CASES)
def test_two_processes_have_the_loss_and_the_gradients_of_transformers(
    row: str, layout: str, two_processes: Callable[..., None], tmp_path: Path
) -> None:
    model = table.settings(row)
    network = table.transformers_model(model)
    with unsplit.process(num_threads=1, seed=1):
        decoder = megatron_model(model, table.on_disk(network, network.state_dict()))
        unsplit.save(tmp_path / "weights", decoder)
        loss, expected = gradients(model, network, decoder)
    torch.save((loss, expected), tmp_path / "expected.pt")
    two_processes(check_split, model, LAYOUTS[layout], tmp_path)


def check_split(model: ModelSettings, degrees: dict[str, Any], folder: Path) -> None:
    """Require this process's part of the gradients."""
    loss, expected = torch.load(folder / "expected.pt")
    job = optimizing.job(
        LayoutSettings(**degrees),
        model,
        phases={"main": {"tokens": 1024, "blend": {"code": 1.0}, "global_batch_size": 2}},
    )
    with optimizing.training(job) as trainer:
        trainer.load_weights(checkpoint.load(folder / "weights", trainer.weights_state_dict()))
        own = slice(parallel.data_parallel_rank(), None, parallel.data_parallel_size())
        texts = zip(TOKENS[own, None], LABELS[own, None], POSITIONS[own, None], strict=True)
        found = trainer.gradients([Batch(*text, None) for text in texts], job.plan.at(1))
        assert found.loss == pytest.approx(loss, rel=RELATIVE)
        for name, weight in optimizing.weights(trainer).items():
            whole = optimizing.unsplit(trainer, name, weight.main_grad)
            require_close({name: whole}, {name: expected[global_name(name, trainer, degrees)]})


def global_name(name: str, trainer: Trainer, degrees: dict[str, Any]) -> str:
    """Return the name of a weight in the unsplit model, where experts are numbered over all processes."""
    size = degrees.get("expert_model_parallel_size", 1)
    experts = trainer.modules[0].config.num_moe_experts or 0
    first = parallel.data_parallel_rank() * experts // size if size > 1 else 0
    return re.sub(r"(?<=local_experts\.)\d+", lambda index: str(first + int(index[0])), name)
