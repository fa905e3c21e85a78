import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.utils.flop_counter import FlopCounterMode

from model.counts import counts
from model.families.family import ModelSettings
from model.logs.flops import (
    Peak,
    flops_per_token,
    measured_peak,
    mfu,
    published_peak,
    total_peak,
    training_flops,
)

CPU = torch.device("cpu")


def model(layers: int, hidden: int, ffn: int, heads: int, groups: int, length: int, **more: object) -> ModelSettings:
    shape = {"num_layers": layers, "hidden_size": hidden, "ffn_hidden_size": ffn, "num_attention_heads": heads}
    return ModelSettings.model_validate(
        {**shape, "num_query_groups": groups, "seq_length": length, "family": "llama", **more}
    )


LLAMA_2_7B = model(32, 4096, 11008, 32, 32, 4096)
MIXTRAL_8X7B = model(32, 4096, 14336, 32, 8, 32768, family="mixtral", moe={"num_experts": 8, "router_topk": 2})


def test_palm_reaches_the_mfu_that_its_paper_gives() -> None:
    # Chowdhery et al. 2022, table 3: 540.35 B parameters, 238.3 k tokens/s on 6144 chips of 275 TFLOP/s, 46.2 %.
    flops = training_flops(540_350_000_000, attention_width=48 * 256, attended=118 * 2048)
    assert mfu(238.3e3, flops, Peak(6144 * 275e12, measured=False)) == pytest.approx(0.462, abs=5e-4)


def test_llama_2_7b_counts_its_published_parameters_less_table_and_norms() -> None:
    weights = 6_738_415_616 - 32000 * 4096 - (2 * 32 + 1) * 4096
    assert counts(LLAMA_2_7B, 32000).total == 6_738_415_616
    assert flops_per_token(LLAMA_2_7B, 32000, 4096) == 6 * weights + 12 * 32 * 4096 * 4096 == 46_084_915_200


def test_mixtral_8x7b_counts_the_experts_that_a_token_visits() -> None:
    # Jiang et al. 2024: 46.7 B parameters, 12.9 B of them active, table and norms among these.
    flops = flops_per_token(MIXTRAL_8X7B, 32000, 4096) - 12 * 32 * 4096 * 4096
    assert counts(MIXTRAL_8X7B, 32000).total == pytest.approx(46.7e9, rel=1e-3)
    assert flops / 6 + 32000 * 4096 == pytest.approx(12.9e9, rel=2e-3)


def test_a_layer_with_a_window_attends_to_that_at_most() -> None:
    mistral = model(4, 64, 160, 4, 2, 96, family="mistral", sliding_window=16)
    olmo3 = model(4, 64, 160, 4, 2, 96, family="olmo3", sliding_window=16)  # the fourth layer has none
    assert (mistral.attended(96), mistral.attended(8)) == (4 * 16, 4 * 8)
    assert olmo3.attended(96) == 3 * 16 + 96


@pytest.mark.parametrize(("groups", "tied"), [(4, False), (2, True)])
def test_the_formula_is_what_a_forward_and_backward_pass_multiplies(groups: int, tied: bool) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig  # here: the processes of the last test import this file

    shape = model(2, 64, 160, 4, groups, 96)
    config = LlamaConfig(
        vocab_size=200,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=groups,
        tie_word_embeddings=tied,
    )
    # Eager attention has whole squares of scores, as the convention counts.
    llama = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    tokens = torch.randint(200, (2, 96))
    with FlopCounterMode(display=False) as counter:
        llama(tokens, labels=tokens).loss.backward()
    assert counter.get_total_flops() == pytest.approx(tokens.numel() * flops_per_token(shape, 200, 96), rel=1e-3)


@pytest.mark.parametrize(
    ("gpu", "precision", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5),
        ("NVIDIA H100 80GB HBM3", "fp8", 1979),
        ("NVIDIA H100 PCIe", "bf16", 756.5),
        ("NVIDIA H200", "float32", 67),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100 80GB PCIe", "bf16", 312),
        ("A100-SXM4-40GB", "bf16", 312),
        ("NVIDIA GH200 480GB", "bf16", 989.5),
        ("NVIDIA GB200", "bf16", 2500),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
    ],
)
def test_a_known_gpu_has_its_data_sheets_dense_figure(gpu: str, precision: str, teraflops: float) -> None:
    assert published_peak(gpu, precision) == teraflops * 1e12


@pytest.mark.parametrize(
    ("gpu", "precision"),
    [
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16"),
        ("NVIDIA A100-SXM4-80GB", "fp8"),
        ("A new one", "bf16"),
    ],
)
def test_a_part_of_a_gpu_and_what_it_cannot_do_have_no_figure(gpu: str, precision: str) -> None:
    assert published_peak(gpu, precision) is None


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_measured_rate_is_found_soon_and_leaves_the_random_state(precision: str) -> None:
    before, start = torch.get_rng_state(), time.perf_counter()
    rate = measured_peak(precision, CPU)
    assert time.perf_counter() - start < 2  # 0.3 where nothing else runs
    assert rate > 1e9
    assert torch.equal(torch.get_rng_state(), before)


def measure(rank: int, store: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.save([total_peak("float32", CPU), measured_peak("float32", CPU)], f"{folder}/{rank}")
    dist.destroy_process_group()


@pytest.mark.e2e
def test_the_peak_of_processes_is_the_sum_of_theirs_and_known_to_all(tmp_path: Path) -> None:
    spawn(measure, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    (total, own), (other_total, other) = (torch.load(tmp_path / str(rank), weights_only=False) for rank in (0, 1))
    assert total == other_total
    assert total.measured
    assert max(own, other) < total.flops < 3 * (own + other)  # own was measured at another moment
