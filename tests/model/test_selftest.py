"""The self-test of a layout, on two gloo processes with real weights, right and deliberately wrong."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from model import parallel, selftest
from model.layout import LayoutSettings
from model.network.build import build_chunks
from tests.model import layouts
from tests.model.two_processes import TwoProcesses

TENSOR = LayoutSettings(tensor_model_parallel_size=2)
PIPELINE = LayoutSettings(pipeline_model_parallel_size=2)
INTERLEAVED = LayoutSettings(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2)
DATA = LayoutSettings(data_parallel_size=2)
EXPERT = LayoutSettings(data_parallel_size=2, expert_model_parallel_size=2)

Modules = list[torch.nn.Module]


def nothing(modules: Modules) -> None:
    pass


def same_shard_everywhere(modules: Modules) -> None:
    dist.broadcast(modules[0].get_parameter("decoder.layers.0.mlp.linear_fc1.weight").data, src=0)


def a_norm_of_its_own(modules: Modules) -> None:
    modules[0].get_parameter("decoder.layers.0.input_layernorm.weight").data += dist.get_rank()


def an_expert_of_its_own(modules: Modules) -> None:
    name = "decoder.layers.0.mlp.experts.local_experts.1.linear_fc2.weight"
    modules[0].get_parameter(name).data += dist.get_rank()


def a_table_of_its_own(modules: Modules) -> None:
    if dist.get_rank() == 1:
        modules[-1].get_parameter("output_layer.weight").data += 1


def the_same_layers_on_every_stage(modules: Modules) -> None:
    dist.broadcast(modules[0].get_parameter("decoder.layers.1.mlp.linear_fc2.weight").data, src=0)


def equal_runs_on_the_last_stage(modules: Modules) -> None:
    if dist.get_rank() == 1:
        first, second = (module.get_submodule("decoder.layers.0.mlp") for module in modules)
        second.load_state_dict(first.state_dict())


def check(
    layout: LayoutSettings,
    model: str,
    damage: Callable[[Modules], None],
    test: Callable[[Modules], None],
    folder: Path,
) -> None:
    job = layouts.job(layout, layers=4, moe=model == "moe", tied=model == "tied")
    with parallel.processes(layout, "cpu", num_threads=1, seed=1):
        torch.manual_seed(parallel.pipeline_rank())
        modules: Modules = list(build_chunks(job.model, job.pretrain, job.shards.vocab_size))
        damage(modules)
        try:
            test(modules)
        except RuntimeError as error:
            (folder / str(dist.get_rank())).write_text(str(error))


@pytest.mark.parametrize(
    ("layout", "model"), [(TENSOR, "dense"), (DATA, "dense"), (DATA, "moe"), (PIPELINE, "dense"), (PIPELINE, "tied")]
)
def test_a_right_layout_passes(two_processes: TwoProcesses, tmp_path: Path, layout: LayoutSettings, model: str) -> None:
    two_processes(check, layout, model, nothing, selftest.check_layout, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("layout", "model", "damage", "message"),
    [
        (TENSOR, "dense", same_shard_everywhere, "linear_fc1.weight is split .* two ranks hold the same shard"),
        (TENSOR, "dense", a_norm_of_its_own, "input_layernorm.weight is replicated, but differs"),
        (DATA, "dense", a_norm_of_its_own, "input_layernorm.weight differs between data-parallel replicas"),
        (DATA, "moe", an_expert_of_its_own, "1.linear_fc2.weight differs between data-parallel replicas"),
        (EXPERT, "moe", nothing, "1.linear_fc1.weight is of other experts .* two ranks hold the same"),
        (
            PIPELINE,
            "dense",
            the_same_layers_on_every_stage,
            "stage 1 .*layers.1.* and stage 0 .*layers.1.* hold the same",
        ),
        (INTERLEAVED, "dense", equal_runs_on_the_last_stage, "stage 1 run 1 .* and stage 1 run 0 .* hold the same"),
        (PIPELINE, "tied", a_table_of_its_own, "the tied embedding differs"),
    ],
)
def test_a_broken_layout_is_named_on_every_rank(
    two_processes: TwoProcesses,
    tmp_path: Path,
    layout: LayoutSettings,
    model: str,
    damage: Callable[[Modules], None],
    message: str,
) -> None:
    two_processes(check, layout, model, damage, selftest.check_layout, tmp_path)
    found = [file.read_text() for file in tmp_path.iterdir()]
    assert len(found) == 2
    for text in found:
        assert re.search(message, text)


def test_replicas_that_drift_apart_are_told_and_shards_that_are_equal_are_not(
    two_processes: TwoProcesses, tmp_path: Path
) -> None:
    two_processes(check, TENSOR, "dense", same_shard_everywhere, selftest.check_replicas, tmp_path)
    assert not list(tmp_path.iterdir())
    two_processes(check, DATA, "dense", a_norm_of_its_own, selftest.check_replicas, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
