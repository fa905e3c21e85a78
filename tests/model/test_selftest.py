"""The self-test of a layout, on two gloo processes with real weights, right and deliberately wrong."""

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from model import parallel, selftest
from model.build import build_model
from model.settings import LayoutSettings, ModelSettings

MODEL = ModelSettings(
    num_layers=1, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, num_query_groups=2, seq_length=16
)


def same_shard_everywhere(model: torch.nn.Module) -> None:
    dist.broadcast(model.get_parameter("decoder.layers.0.mlp.linear_fc1.weight").data, src=0)


def a_norm_of_its_own(model: torch.nn.Module) -> None:
    model.get_parameter("decoder.final_layernorm.weight").data += dist.get_rank()


def nothing(model: torch.nn.Module) -> None:
    pass


def check(rank: int, store: str, layout: LayoutSettings, damage: Callable[[torch.nn.Module], None], out: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="localhost", MASTER_PORT=store)
    with parallel.processes(layout, "cpu", num_threads=1, seed=1):
        model = build_model(MODEL, layout, 128)
        damage(model)
        try:
            selftest.check_layout(model)
        except RuntimeError as error:
            Path(out, str(rank)).write_text(str(error))


def faults(folder: Path, layout: LayoutSettings, damage: Callable[[torch.nn.Module], None]) -> list[str]:
    spawn(check, args=(str(free_port()), layout, damage, str(folder)), nprocs=2)
    return [file.read_text() for file in sorted(folder.iterdir())]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


TENSOR_PARALLEL = LayoutSettings(tensor_model_parallel_size=2)
DATA_PARALLEL = LayoutSettings(data_parallel_size=2)


@pytest.mark.parametrize("layout", [TENSOR_PARALLEL, DATA_PARALLEL])
def test_a_right_layout_passes(tmp_path: Path, layout: LayoutSettings) -> None:
    assert faults(tmp_path, layout, nothing) == []


@pytest.mark.parametrize(
    ("layout", "damage", "message"),
    [
        (TENSOR_PARALLEL, same_shard_everywhere, "linear_fc1.weight is split .* two ranks hold the same shard"),
        (TENSOR_PARALLEL, a_norm_of_its_own, "final_layernorm.weight is replicated, but differs"),
        (DATA_PARALLEL, a_norm_of_its_own, "final_layernorm.weight differs between data-parallel replicas"),
    ],
)
def test_a_broken_layout_is_named_on_every_rank(
    tmp_path: Path, layout: LayoutSettings, damage: Callable[[torch.nn.Module], None], message: str
) -> None:
    found = faults(tmp_path, layout, damage)
    assert len(found) == 2
    for text in found:
        assert re.search(message, text)
