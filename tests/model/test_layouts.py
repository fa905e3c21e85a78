"""Every layout trains the same model, and takes up the checkpoints of every other."""

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.serialization import load_plain_tensors
from torch.testing._internal.distributed.fake_pg import FakeStore

from model import parallel
from model.job import Job
from model.layout import LayoutSettings
from model.network.build import build_chunks
from model.plan import check
from stages.errors import UserError
from tests.model import layouts
from tests.model.two_processes import Processes

pytestmark = pytest.mark.e2e

SHORT = {
    "tp": "tensor_model_parallel_size",
    "sp": "sequence_parallel",
    "pp": "pipeline_model_parallel_size",
    "vpp": "virtual_pipeline_model_parallel_size",
    "cp": "context_parallel_size",
    "ep": "expert_model_parallel_size",
    "dp": "data_parallel_size",
    "zero": "distributed_optimizer",
}


def layout(name: str) -> LayoutSettings:
    """Return the layout of a name like `tp2 sp dp2`."""
    parts = re.findall(r"([a-z]+)(\d*)", name)
    return LayoutSettings.model_validate({SHORT[part]: int(size) if size else True for part, size in parts})


@pytest.fixture(scope="module")
def run_on() -> Iterator[Callable[..., None]]:
    """A function that calls another on as many processes as its first argument, a job, needs."""
    pools: dict[int, Processes] = {}

    def run(function: Callable[..., None], job: Any, *arguments: Any) -> None:
        size = job.pretrain.layout.world_size
        if size == 1:
            function(job, *arguments)
        else:
            pools.setdefault(size, Processes(size))(function, job, *arguments)

    yield run
    for pool in pools.values():
        pool.close()


MODELS: dict[str, dict[str, Any]] = {
    "dense": {},
    "deep": {"layers": 4},
    "tied": {"layers": 4, "tied": True},
    "moe": {"moe": True},
    "olmo": {"family": layouts.OLMO},
    "neox": {"family": layouts.NEOX},
    "deepseek": {"family": layouts.DEEPSEEK, "layers": 4},
}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that returns the folder where a model was trained by one process."""
    made: dict[str, Path] = {}

    def make(model: str) -> Path:
        if model not in made:
            made[model] = folder = tmp_path_factory.mktemp(model)
            layouts.write_initial(layouts.job(**MODELS[model]), folder)
            layouts.follow(layouts.job(**MODELS[model]), folder, "one")
        return made[model]

    return make


CASES = [
    *(("dense", name) for name in ("tp2", "tp2 sp", "pp2", "dp2", "dp2 zero", "cp2", "tp4", "tp2 pp2")),
    *(("dense", name) for name in ("tp2 dp2 zero", "pp2 dp2", "tp2 sp cp2", "pp2 cp2")),
    *(("deep", name) for name in ("pp2 vpp2", "pp2 vpp2 dp2 zero")),
    ("tied", "pp2 vpp2"),
    *(("moe", name) for name in ("tp2 sp", "cp2 ep2", "dp2 ep2 zero", "pp2 dp2 ep2", "tp2 sp dp2 ep4")),
    *((model, "tp2 sp") for model in ("olmo", "neox")),
    *(("deepseek", name) for name in ("tp2 sp", "pp2", "cp2 ep2")),
]


@pytest.mark.parametrize(("model", "name"), CASES)
def test_a_layout_trains_scores_and_moves_checkpoints_as_one_process_does(
    model: str, name: str, one: Callable[[str], Path], run_on: Callable[..., None]
) -> None:
    folder = one(model)
    run_on(layouts.follow, layouts.job(layout(name), **MODELS[model]), folder, name)
    seen, expected = (json.loads((folder / f"{which}.json").read_text()) for which in (name, "one"))
    losses = [loss for loss, *_ in expected["trained"]]
    assert losses[-1] < losses[0] - 2, "the model must learn, or the curves agree for nothing"
    for part in ("trained", "continued"):
        for (loss, *others), (wanted_loss, *wanted) in zip(seen[part], expected[part], strict=True):
            assert loss == pytest.approx(wanted_loss, abs=1e-4)
            assert others == pytest.approx(wanted, rel=1e-3)
    for found, wanted in zip(seen["scores"], expected["scores"], strict=True):
        assert found == pytest.approx(wanted, rel=1e-4)
    require_equal(contents(folder / f"{name}-from-one"), contents(folder / "one"))
    layouts.move(layouts.job(**MODELS[model]), folder / name, folder / f"{name}-to-one")
    require_equal(contents(folder / f"{name}-to-one"), contents(folder / name))


def contents(path: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a checkpoint, whole."""
    with parallel.processes(LayoutSettings(), "cpu", num_threads=1, seed=0):
        found = load_plain_tensors(str(path))
    return {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}


def require_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert any("optimizer.state.exp_avg_sq" in key for key in found)
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("dense", "tp2"),
        ("dense", "tp2 sp"),
        ("deep", "pp2 vpp2"),
        ("dense", "cp2 zero"),
        ("moe", "dp2 ep2 zero"),
        ("deepseek", "dp2 ep2 zero"),
    ],
)
def test_training_with_dropout_goes_on_bit_by_bit(
    model: str, name: str, one: Callable[[str], Path], run_on: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "initial").symlink_to(one(model) / "initial")
    job = layouts.job(layout(name), dropout=0.1, **MODELS[model])
    run_on(layouts.resume, job, tmp_path, "straight", None, range(1, 5))
    run_on(layouts.resume, job, tmp_path, "half", None, range(1, 3))
    run_on(layouts.resume, job, tmp_path, "resumed", "half", range(3, 5))
    straight, resumed = (json.loads((tmp_path / f"{which}.json").read_text()) for which in ("straight", "resumed"))
    assert resumed == straight[2:]
    require_equal(contents(tmp_path / "resumed"), contents(tmp_path / "straight"))


@pytest.mark.parametrize("model", ["deep", "moe", "deepseek"])
def test_whatever_the_rules_let_through_megatron_core_builds(model: str) -> None:
    names = [name for name in LayoutSettings.model_fields if name.endswith("_size")]
    built = 0
    for *degrees, split in itertools.product(*[(1, 2, 4)] * len(names), (False, True)):
        chosen = LayoutSettings.model_validate(dict(zip(names, degrees, strict=True)) | {"sequence_parallel": split})
        job = layouts.job(chosen, micro_batch_size=1, **MODELS[model])
        with contextlib.suppress(UserError):
            check(job.model, job.pretrain)
            build_first_part(job)
            built += 1
    assert built > 100


def build_first_part(job: Job) -> None:
    """Build what rank 0 would have, with a group in which nobody else is."""
    dist.init_process_group("fake", rank=0, world_size=job.pretrain.layout.world_size, store=FakeStore())
    try:
        with parallel.split(job.pretrain.layout, seed=0):
            build_chunks(job.model, job.pretrain, job.shards.vocab_size)
    finally:
        dist.destroy_process_group()
