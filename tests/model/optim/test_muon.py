"""Muon on real gradients against torch.optim.Muon on the matrices that the exported model has."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.families.deepseek_v3 import DeepseekV3
from model.families.family import ModelSettings
from model.families.weights import heads, tensors
from model.job import Job
from model.layout import LayoutSettings
from model.trainer import Trainer
from tests.model.optimizing import LLAMA, MIXTRAL, find_gradient, job, stepped, training, unsplit
from tests.model.two_processes import TwoProcesses

RATE = 1e-2
MUON = {"kind": "muon", "clip_grad": 1e9}
QKV = heads("", "", "weight", LLAMA.num_query_groups, LLAMA.num_attention_heads // LLAMA.num_query_groups)
DEEPSEEK = DeepseekV3.model_validate(
    {
        **{"family": "deepseek_v3", "num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "seq_length": 16},
        **{"num_attention_heads": 4, "num_query_groups": 4},
        **{"q_lora_rank": 12, "kv_lora_rank": 8, "qk_head_dim": 6, "qk_pos_emb_head_dim": 4, "v_head_dim": 10},
        "moe": {
            **{"num_experts": 4, "router_topk": 2, "ffn_hidden_size": 16},
            **{"num_shared_experts": 2, "num_dense_layers": 1},
        },
    }
)
ADAMW_KEEPS = ("embedding", "output_layer", "norm", "router")


def exported(trainer: Trainer, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of the layers' matrices as `transformers` has them: whole, and each by itself."""
    found = {}
    for name, tensor in given.items():
        if not any(part in name for part in ADAMW_KEEPS):
            for index, matrix in enumerate(_parts(name, unsplit(trainer, name, tensor))):
                found[f"{name} {index}"] = matrix.clone()
    return found


def _parts(name: str, weight: Tensor) -> Any:
    if "linear_qkv" in name:
        return [part for _, part in tensors(QKV, weight)]
    if "linear_kv_down_proj" in name:
        return weight.split([DEEPSEEK.kv_lora_rank, DEEPSEEK.qk_pos_emb_head_dim])
    if "linear_q_up_proj" in name or "linear_kv_up_proj" in name:
        second = DEEPSEEK.qk_pos_emb_head_dim if "_q_" in name else DEEPSEEK.v_head_dim
        heads = weight.unflatten(0, (DEEPSEEK.num_attention_heads, -1))
        return [part.flatten(0, 1) for part in heads.split([DEEPSEEK.qk_head_dim, second], dim=1)]
    return weight.chunk(2) if "linear_fc1" in name else (weight,)


def check_steps(run: Job) -> None:
    """Take steps beside torch.optim.Muon, which gets the same gradients, and require equal weights."""
    with training(run) as trainer:
        held = {name: own for name, (own, _) in stepped(trainer).items()}
        before = exported(trainer, held)
        expected = {name: torch.nn.Parameter(matrix.clone()) for name, matrix in before.items()}
        oracle = torch.optim.Muon(
            expected.values(), lr=RATE, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        )
        for step in range(1, 6):
            find_gradient(trainer, run, step)
            for name, gradient in exported(trainer, {name: own.grad for name, own in held.items()}).items():
                expected[name].grad = gradient
            trainer.update(RATE)
            oracle.step()
        for name, matrix in exported(trainer, held).items():
            assert torch.equal(matrix, expected[name]), name
            assert (matrix - before[name]).abs().max() > RATE / 10


@pytest.mark.parametrize(
    ("model", "precision"),
    [(LLAMA, "float32"), (LLAMA, "bf16"), (MIXTRAL, "float32"), (MIXTRAL, "bf16"), (DEEPSEEK, "float32")],
)
def test_a_step_is_that_of_torch_on_the_exported_matrices(model: ModelSettings, precision: str) -> None:
    check_steps(job(model=model, optimizer=MUON, precision=precision))


@pytest.mark.parametrize(
    ("degrees", "model"),
    [
        ({"tensor_model_parallel_size": 2}, LLAMA),
        ({"data_parallel_size": 2}, LLAMA),
        ({"tensor_model_parallel_size": 2, "sequence_parallel": True}, MIXTRAL),
        ({"data_parallel_size": 2, "expert_model_parallel_size": 2}, MIXTRAL),
        ({"tensor_model_parallel_size": 2, "sequence_parallel": True}, DEEPSEEK),
    ],
)
def test_a_step_is_the_same_when_processes_share_the_matrices(
    two_processes: TwoProcesses, degrees: dict[str, Any], model: ModelSettings
) -> None:
    two_processes(check_steps, job(LayoutSettings(**degrees), model, MUON))


def write_losses(run: Job, file: Path) -> None:
    with training(run) as trainer:
        losses = []
        for step in range(1, 31):
            losses.append(find_gradient(trainer, run, step % 5 + 1).loss)
            trainer.update(1e-3)
        torch.save(losses, file)


def test_tensor_parallelism_leaves_the_loss_curve_as_it_is(two_processes: TwoProcesses, tmp_path: Path) -> None:
    write_losses(job(optimizer=MUON), tmp_path / "one")
    two_processes(write_losses, job(LayoutSettings(tensor_model_parallel_size=2), optimizer=MUON), tmp_path / "two")
    one, two = torch.load(tmp_path / "one"), torch.load(tmp_path / "two")
    assert one[-1] < one[0] - 0.3
    assert two == pytest.approx(one, abs=1e-4)
