"""Export: the gate that compares, and the stage that writes."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from model import parallel
from model.checkpoints import checkpoint
from model.convert import described, export, parity, unsplit
from model.convert.to_transformers import Export
from model.data.batches import Batch
from model.families.family import ModelSettings
from model.families.llama import Llama
from model.families.weights import Weight
from model.job import Job
from model.layout import LayoutSettings
from model.network.build import build_model
from model.network.decoder import Decoder
from stages import export as stage
from stages.errors import UserError
from stages.files import read_json, sha256_file, write_json
from tests.model import corpus, jobs
from tests.model.two_processes import TwoProcesses

Mapping = Callable[[list[Weight]], list[Weight]]
LIMITS = {"max_abs_logit_difference": 1e-4, "loss_difference": 1e-5}


@pytest.fixture
def one_process() -> Iterator[None]:
    with unsplit.process(num_threads=1, seed=1):
        yield


def batch() -> Batch:
    tokens = torch.randint(0, jobs.VOCAB_SIZE, (2, 17), generator=torch.Generator().manual_seed(0))
    return Batch(tokens[:, :-1], tokens[:, 1:], torch.arange(16).expand(2, -1), None)


def write(folder: Path, model: ModelSettings, mapping: Mapping | None = None) -> tuple[Decoder, Any]:
    """Return a random model and its export, which is written by another mapping of the weights if one is given."""
    megatron = unsplit.build(model, jobs.VOCAB_SIZE).eval()
    unsplit.save(folder / "checkpoint", megatron)
    of_model = replace(described.of_run(jobs.job(folder / "tokenizer.json", model)), tokenizer=None)
    weights = Export(folder / "checkpoint", model, jobs.VOCAB_SIZE, torch.float32, 10**9)
    if mapping:
        weights.weights = list(mapping(weights.weights))
    of_model.write(weights, folder / "model")
    return megatron, export.load(folder / "model", of_model)


TIED = jobs.LLAMA.model_copy(update={"share_embeddings_and_output_weights": True})
SQUARE = jobs.LLAMA.model_copy(update={"ffn_hidden_size": 32})
NEOX = ModelSettings.model_validate(
    {**jobs.LLAMA.model_dump(exclude_defaults=True), "family": "gpt_neox", "num_query_groups": 4}
)


@pytest.mark.parametrize("model", [jobs.LLAMA, TIED, jobs.MIXTRAL], ids=["llama", "tied", "mixtral"])
def test_exported_logits_and_loss_are_those_of_the_trained_model(
    one_process: None, model: ModelSettings, tmp_path: Path
) -> None:
    found = parity.compare(*write(tmp_path, model), [batch()])
    assert found.tokens == 32
    assert found.max_abs_logit > 0.5
    assert found.max_abs_logit_difference <= 2e-5
    assert found.loss_difference <= 1e-6
    assert found.exceeded(LIMITS) == []


def changed(layer: int, name: str, change: Callable[[Weight], Weight]) -> Mapping:
    """Return a mapping in which one weight of a layer is mapped otherwise."""
    wrong = f"decoder.layers.{layer}.{name}.weight"
    return lambda weights: [change(weight) if weight.megatron == wrong else weight for weight in weights]


def crossed(weight: Weight) -> Weight:
    """Swap the first head's query with its key."""

    def views(own: Tensor) -> list[Tensor]:
        query, key, value = (view.clone() for view in weight.views(own))
        head = key.shape[1]
        query[0, :head], key[0] = key[0].clone(), query[0, :head].clone()
        return [query, key, value]

    return replace(weight, views=views)


def by_kind(weight: Weight) -> Weight:
    """Write all queries, then all keys, then all values, where each head has its own together."""
    return replace(weight, views=lambda own: [own.unflatten(0, (4, 3, -1)).transpose(0, 1)])


def backwards(weight: Weight) -> Weight:
    return replace(weight, parts=weight.parts[::-1])


def transposed(weight: Weight) -> Weight:
    """Write a square gate by columns."""

    def views(own: Tensor) -> list[Tensor]:
        gate, up = weight.views(own)
        return [gate.T, up]

    return replace(weight, views=views)


def shifted(weights: list[Weight]) -> list[Weight]:
    """Give every layer's norms and matrices to the next."""

    def next_layer(found: re.Match[str]) -> str:
        return f"layers.{(int(found[1]) + 1) % 3}."

    return [
        replace(weight, parts=tuple(re.sub(r"layers\.(\d+)\.", next_layer, part) for part in weight.parts))
        for weight in weights
    ]


def turned(weight: Weight) -> Weight:
    return replace(weight, views=lambda own: [-own])


def swap_experts(weights: list[Weight]) -> list[Weight]:
    """Swap what two experts of layer 1 multiply last."""
    names = [f"decoder.layers.1.mlp.experts.local_experts.{index}.linear_fc2.weight" for index in (0, 1)]
    one, other = (next(weight for weight in weights if weight.megatron == name) for name in names)
    parts = {one.megatron: other.parts, other.megatron: one.parts}
    return [replace(weight, parts=parts.get(weight.megatron, weight.parts)) for weight in weights]


WRONG: dict[str, tuple[ModelSettings, Mapping, str]] = {
    "a query and its key": (jobs.LLAMA, changed(1, "self_attention.linear_qkv", crossed), "layer 1"),
    "heads": (NEOX, changed(1, "self_attention.linear_qkv", by_kind), "layer 1"),
    "gate and up": (jobs.LLAMA, changed(2, "mlp.linear_fc1", backwards), "layer 2"),
    "a gate by columns": (SQUARE, changed(1, "mlp.linear_fc1", transposed), "layer 1"),
    "layers": (jobs.LLAMA, shifted, "layer 0"),
    "experts": (jobs.MIXTRAL, swap_experts, "layer 1"),
    "router": (jobs.MIXTRAL, changed(2, "mlp.router", turned), "layer 2"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_mapping_is_caught_and_located(one_process: None, name: str, tmp_path: Path) -> None:
    model, mapping, where = WRONG[name]
    megatron, exported = write(tmp_path, model, mapping)
    found = parity.compare(megatron, exported, [batch()])
    assert found.max_abs_logit_difference > 1e-3
    assert found.exceeded(LIMITS)[0].startswith("max_abs_logit_difference is")
    assert parity.first_difference(megatron, exported, batch(), 1e-4).startswith(where)


def test_a_wrong_norm_is_located_after_the_layers(one_process: None, tmp_path: Path) -> None:
    megatron, exported = write(tmp_path, jobs.LLAMA)
    with torch.no_grad():
        exported.model.norm.weight *= 1.01
    found = parity.first_difference(megatron, exported, batch(), 1e-4)
    assert found == "the final norm or the output projection"


def test_a_tie_between_experts_is_no_difference(one_process: None, tmp_path: Path) -> None:
    megatron, exported = write(tmp_path, jobs.MIXTRAL)
    with torch.no_grad():
        for router in (megatron.decoder.layers[1].mlp.router, exported.model.layers[1].mlp.gate):
            router.weight[1:] = router.weight[1]  # experts 1 to 3 are level
        exported.model.layers[1].mlp.gate.weight[3] *= 1 + 1e-6
    assert parity.compare(megatron, exported, [batch()]).max_abs_logit_difference <= 2e-5
    with torch.no_grad():
        alone = exported(batch().tokens).logits
        ours = megatron(batch().tokens, batch().positions, None)[..., : jobs.VOCAB_SIZE]
    assert (alone - ours).abs().max() > 1e-2


def trained(root: Path, monkeypatch: pytest.MonkeyPatch, model: ModelSettings = jobs.LLAMA) -> Job:
    """Write what the stage reads but the weights: shards of real text, and the record of a run with two phases."""
    monkeypatch.chdir(root)
    corpus.write(root)
    phases = {
        "main": {"tokens": 1024, "blend": {"code": 1.0}, "global_batch_size": 4},
        "long": {"tokens": 1024, "blend": {"prose": 1.0}, "global_batch_size": 4, "seq_length": 32, "rotary_base": 5e5},
    }
    job = jobs.job(Path("out/tokenizer/tokenizer/tokenizer.json"), model, corpus.VOCAB_SIZE)
    settings = job.model_dump(mode="json")
    settings["pretrain"] |= {"phases": phases, "averaging": {"decay": 0.9}}
    settings["shards"]["tokens"] = "out/shards/tokens"
    write_json(Path("out/pretrain/run.json"), {"settings": settings}, sort_keys=False)
    return Job.model_validate(settings)


def write_weights(folder: str, layout: LayoutSettings, job: str) -> None:
    """Write random weights of a job, split."""
    model = Job.model_validate_json(job).model
    with parallel.processes(layout, "cpu", num_threads=1, seed=7):
        metadata = {"dp_cp_group": parallel.data_parallel_group()}
        chunk = build_model(model, layout, corpus.VOCAB_SIZE)
        checkpoint.save(Path(folder), {"model": chunk.sharded_state_dict(metadata=metadata)})


def write_export_params(root: Path, **changes: Any) -> None:
    settings = {"num_threads": 1, "sequences": 2, "max_abs_logit_difference": 1e-4, "max_loss_difference": 1e-5}
    corpus.write_params(root, {"export": settings | changes})


LAYOUTS = {
    "tensor": (jobs.LLAMA, LayoutSettings(tensor_model_parallel_size=2)),
    "pipeline": (jobs.LLAMA.model_copy(update={"num_layers": 4}), LayoutSettings(pipeline_model_parallel_size=2)),
    "expert": (jobs.MIXTRAL, LayoutSettings(data_parallel_size=2, expert_model_parallel_size=2)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_model_of_any_layout_is_exported_as_its_last_phase_leaves_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_processes: TwoProcesses
) -> None:
    model, layout = LAYOUTS[name]
    job = trained(tmp_path, monkeypatch, model)
    two_processes(write_weights, str(tmp_path / "out/pretrain/checkpoint"), layout, job.model_dump_json())
    write_export_params(tmp_path)
    stage.main()
    folder = Path("out/export/model")
    assert {file.name for file in folder.iterdir()} >= {"config.json", "generation_config.json", "model.safetensors"}
    config = read_json(folder / "config.json")
    assert config["max_position_embeddings"] == 32
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 5e5}
    found = read_json(Path("out/export/parity.json"))
    assert found["max_abs_logit_difference"] <= found["limits"]["max_abs_logit_difference"]
    assert found["tokens"] == 2 * 2 * 32
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.model_max_length == 32
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer("def main(", return_tensors="pt")
    assert loaded.generate(**inputs, max_new_tokens=5, do_sample=False).shape[1] > inputs["input_ids"].shape[1]


def test_the_average_is_exported_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = trained(tmp_path, monkeypatch)
    for name in ("checkpoint", "checkpoints/average"):
        with unsplit.process(num_threads=1, seed=len(name)):
            unsplit.save(Path("out/pretrain", name), unsplit.build(job.model, corpus.VOCAB_SIZE))
    digests = []
    for weights in ("trained", "averaged"):
        write_export_params(tmp_path, weights=weights)
        stage.main()
        digests.append(read_json(Path("out/export/parity.json"))["weights_sha256"]["model.safetensors"])
    assert digests[0] != digests[1]
    with unsplit.process(num_threads=1):
        average = unsplit.build(job.model, corpus.VOCAB_SIZE)
        unsplit.load(Path("out/pretrain/checkpoints/average"), average)
    exported: Any = AutoModelForCausalLM.from_pretrained("out/export/model")
    assert torch.equal(exported.model.norm.weight, average.decoder.final_layernorm.weight)
    assert torch.equal(exported.lm_head.weight, average.output_layer.weight[: corpus.VOCAB_SIZE])


def test_released_checkpoints_are_exported_and_compared_as_they_were_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = trained(tmp_path, monkeypatch)
    released = {"step-00000000": (16, 1e4), "step-00000024": (32, 5e5)}
    for name in ("checkpoint", *(f"checkpoints/{step}" for step in released)):
        with unsplit.process(num_threads=1, seed=len(name)):
            unsplit.save(Path("out/pretrain", name), unsplit.build(job.model, corpus.VOCAB_SIZE))
    write_export_params(tmp_path, dtype="bfloat16", shard_bytes=40_000)
    stage.main()
    found = read_json(Path("out/export/parity.json"))
    assert found["checkpoints"].keys() == released.keys()
    for name, (length, base) in released.items():
        folder = Path("out/export/checkpoints", name)
        config = read_json(folder / "config.json")
        assert (config["max_position_embeddings"], config["rope_parameters"]["rope_theta"]) == (length, base)
        assert config["dtype"] == found["checkpoints"][name]["dtype"] == "bfloat16"
        assert found["checkpoints"][name]["max_abs_logit_difference"] <= 1e-4
        assert found["checkpoints"][name]["tokens"] == 2 * 2 * length
        files = found["checkpoints"][name]["weights_sha256"]
        assert len(files) > 1
        assert files == {file.name: sha256_file(file) for file in folder.glob("*.safetensors")}
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder)
        assert loaded.dtype == torch.bfloat16
    write_export_params(tmp_path, checkpoints=False, compare="by_layer")
    stage.main()
    again = read_json(Path("out/export/parity.json"))
    assert again["compare"] == "by_layer"
    assert again["max_abs_logit_difference"] <= 1e-4
    assert {path.name for path in Path("out/export").iterdir()} == {"checkpoints", "model", "parity.json"}
    assert not list(Path("out/export/checkpoints").iterdir())


def test_a_run_without_an_average_has_none_to_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = trained(tmp_path, monkeypatch)
    without = job.pretrain.model_copy(update={"averaging": None})
    settings = job.model_copy(update={"pretrain": without}).model_dump(mode="json")
    write_json(Path("out/pretrain/run.json"), {"settings": settings})
    write_export_params(tmp_path, weights="averaged")
    with pytest.raises(UserError, match=r"the run kept no average; set pretrain\.averaging"):
        stage.main()


def test_another_model_than_the_trained_one_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = trained(tmp_path, monkeypatch)
    with unsplit.process(num_threads=1, seed=1):
        unsplit.save(Path("out/pretrain/checkpoint"), unsplit.build(job.model, corpus.VOCAB_SIZE))
    write_export_params(tmp_path)

    right = Llama.weights
    mapping = changed(1, "mlp.linear_fc1", backwards)
    monkeypatch.setattr(Llama, "weights", lambda *args: mapping(list(right(*args))))
    with pytest.raises(UserError, match=r"not the trained one: max_abs_logit_difference is .* They part at layer 1"):
        stage.main()
    assert not list(tmp_path.glob("out/export*"))


def test_a_missing_run_names_the_stage_to_run(workspace: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace("empty"))
    with pytest.raises(UserError, match=r"'out/pretrain/run.json' is missing.*dvc repro pretrain"):
        stage.main()
