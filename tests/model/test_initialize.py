"""Initial weights: drawn, of a `transformers` checkpoint, or of another run; and what is refused as a start."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import parallel
from model.checkpoints import checkpoint, digests
from model.convert import unsplit
from model.families.family import ModelSettings
from model.initialize import initialize
from model.job import Job
from model.layout import LayoutSettings
from model.network.build import build_model
from stages.errors import UserError
from stages.files import read_json, sha256_tree, write_json
from tests.model import jobs
from tests.model.two_processes import TwoProcesses

Weights = dict[str, torch.Tensor]
Damage = Callable[[Path], None]


def drawn() -> Job:
    return jobs.job(Path("tokenizer.json"))


def read(path: Path, model: ModelSettings = jobs.LLAMA) -> Weights:
    with unsplit.process(num_threads=1):
        decoder = unsplit.build(model, jobs.VOCAB_SIZE)
        unsplit.load(path, decoder)
        return {name: weight.detach().clone() for name, weight in decoder.named_parameters()}


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_drawn_weights_are_a_function_of_the_weight_seed(tmp_path: Path) -> None:
    job = drawn()
    initialize(job, tmp_path / "a")
    initialize(job, tmp_path / "b")
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")
    initialize(job.model_copy(update={"pretrain": job.pretrain.model_copy(update={"weight_seed": 4})}), tmp_path / "c")
    assert not same(read(tmp_path / "a" / "initial"), read(tmp_path / "c" / "initial"))
    other_data = job.pretrain.model_copy(update={"data_seed": 6, "layout": LayoutSettings(data_parallel_size=2)})
    initialize(job.model_copy(update={"pretrain": other_data}), tmp_path / "d")
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "d")


def test_experts_and_layers_are_drawn_apart(tmp_path: Path) -> None:
    initialize(jobs.job(Path("tokenizer.json"), jobs.MIXTRAL), tmp_path)
    weights = read(tmp_path / "initial", jobs.MIXTRAL)
    matrices = [weight for name, weight in weights.items() if name.endswith("linear_fc2.weight")]
    assert len(matrices) == 3 * 4
    assert len({weight.sum().item() for weight in matrices}) == len(matrices)


def test_weights_that_are_there_are_left_alone(tmp_path: Path) -> None:
    initialize(drawn(), tmp_path)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    initialize(drawn(), tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == files


def test_a_kill_at_any_moment_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    initialize(drawn(), tmp_path / "straight")
    expected = sha256_tree(tmp_path / "straight" / "initial")
    for delay in (0.01, 0.04, 0.07, 0.1, 0.13):
        process = multiprocessing.get_context("fork").Process(target=initialize, args=(drawn(), tmp_path / "killed"))
        process.start()
        time.sleep(delay)
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if (tmp_path / "killed" / "initial").exists():
            assert digests.faults(tmp_path / "killed" / "initial") == []
    initialize(drawn(), tmp_path / "killed")
    assert sha256_tree(tmp_path / "killed" / "initial") == expected
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["initial"]


def start_as_one_of_two(folder: str) -> None:
    """Rank 0 makes the weights before it joins the other, then both load them, split."""
    if os.environ["RANK"] == "0":
        initialize(drawn(), Path(folder))
    layout = LayoutSettings(tensor_model_parallel_size=2)
    with parallel.processes(layout, "cpu", num_threads=1, seed=int(os.environ["RANK"])):
        decoder = build_model(jobs.LLAMA, layout, jobs.VOCAB_SIZE)
        state = {"model": decoder.sharded_state_dict(metadata={"dp_cp_group": parallel.data_parallel_group()})}
        decoder.load_state_dict(checkpoint.load(Path(folder, "initial"), state)["model"])
        torch.save(decoder.state_dict()["output_layer.weight"], Path(folder, f"{parallel.tensor_parallel_rank()}.pt"))


def test_a_rank_makes_the_weights_before_it_joins_the_others(tmp_path: Path, two_processes: TwoProcesses) -> None:
    two_processes(start_as_one_of_two, str(tmp_path))
    initialize(drawn(), tmp_path / "alone")
    assert sha256_tree(tmp_path / "initial") == sha256_tree(tmp_path / "alone" / "initial")
    halves = torch.cat([torch.load(tmp_path / f"{rank}.pt") for rank in range(2)])
    assert torch.equal(halves, read(tmp_path / "initial")["output_layer.weight"])


def imported(folder: Path, model: ModelSettings = jobs.LLAMA) -> Weights:
    initialize(jobs.start_from(folder, model), folder / "run")
    return read(folder / "run" / "initial", model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_float32_without_rounding(dtype: torch.dtype, tmp_path: Path) -> None:
    jobs.write_hugging_face(tmp_path)
    rewrite(tmp_path, lambda weights: {name: weight.to(dtype) for name, weight in weights.items()})
    table = load_file(tmp_path / "model.safetensors")["lm_head.weight"]
    found = imported(tmp_path)["output_layer.weight"][: jobs.VOCAB_SIZE]
    assert found.dtype == torch.float32
    assert torch.equal(found, table.float())


def test_a_sharded_checkpoint_is_the_same_as_one_file(tmp_path: Path) -> None:
    jobs.write_hugging_face(tmp_path / "one")
    jobs.write_hugging_face(tmp_path / "several").save_pretrained(tmp_path / "several", max_shard_size=20_000)
    (tmp_path / "several" / "model.safetensors").unlink()
    assert len(list((tmp_path / "several").glob("*.safetensors"))) > 2
    assert same(imported(tmp_path / "one"), imported(tmp_path / "several"))


def rewrite(folder: Path, change: Callable[[Weights], Weights]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file)


def with_derived_and_tied(weights: Weights) -> Weights:
    """As checkpoints were written years ago."""
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    return weights | extra | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}


TIED = jobs.LLAMA.model_copy(update={"share_embeddings_and_output_weights": True})


def test_what_old_checkpoints_carry_along_is_left_out(tmp_path: Path) -> None:
    jobs.write_hugging_face(tmp_path / "new", TIED)
    jobs.write_hugging_face(tmp_path / "old", TIED)
    rewrite(tmp_path / "old", with_derived_and_tied)
    assert same(imported(tmp_path / "old", TIED), imported(tmp_path / "new", TIED))


def configured(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        write_json(folder / "config.json", read_json(folder / "config.json") | changes)

    return damage


def weights_changed(change: Callable[[Weights], Weights]) -> Damage:
    return lambda folder: rewrite(folder, change)


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def without_a_shard(folder: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    write_json(folder / "model.safetensors.index.json", index)


def with_another_tokenizer(folder: Path) -> None:
    # The shards keep the folder's own, so the job is made to have the other one.
    (folder / "tokenizer.json").rename(folder / "shards.json")
    jobs.write_tokenizer(folder / "tokenizer.json", [f"token {index}" for index in reversed(range(jobs.VOCAB_SIZE))])


NORM = "model.norm.weight"
REFUSALS: dict[str, tuple[Damage, str]] = {
    "truncated": (truncated, r"model\.safetensors' is damaged \(.*\); copy it again"),
    "without a shard": (without_a_shard, r"model-00002-of-00002\.safetensors' is missing"),
    "without weights": (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors' is missing"),
    "without configuration": (lambda folder: (folder / "config.json").unlink(), r"config\.json' is missing"),
    "half a configuration": (lambda folder: os.truncate(folder / "config.json", 99), r"config\.json' is damaged"),
    "another architecture": (
        configured(architectures=["GPT2LMHeadModel"]),
        r"\['GPT2LMHeadModel'\]; known are .*LlamaForCausalLM",
    ),
    "quantised": (configured(quantization_config={}), "holds quantised weights"),
    "more layers": (configured(num_hidden_layers=4), r"model\.num_layers is 3, there it is 4"),
    "another base": (
        configured(rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
        r"model\.rotary_base is 10000\.0, there it is 500000\.0",
    ),
    "scaled positions": (
        configured(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
        r"model\.rope_scaling is None, there it is .*linear",
    ),
    "another epsilon": (configured(rms_norm_eps=1e-6), r"model\.layernorm_epsilon is 1e-05, there it is 1e-06"),
    "tied": (configured(tie_word_embeddings=True), r"share_embeddings_and_output_weights is False, .* is True"),
    "biases": (configured(attention_bias=True), r"model\.attention_bias is False, there it is True"),
    "another activation": (configured(hidden_act="gelu"), r'hidden_act = "gelu", which would be "silu"'),
    "nonsense": (configured(hidden_size="wide"), r"config\.json' cannot be read by transformers: .*hidden_size"),
    "nothing of a scaling": (configured(rope_parameters=7), r"config\.json' cannot be read"),
    "wide heads": (configured(head_dim=16), r"model\.kv_channels is 8, there it is 16"),
    "two faults": (
        configured(vocab_size=102, num_hidden_layers=4),
        r"num_layers is 3, there it is 4; .* has 101 ids, .* 102",
    ),
    "a missing tensor": (
        weights_changed(lambda weights: {name: weights[name] for name in weights if name != NORM}),
        r"model\.norm\.weight is missing",
    ),
    "a tensor too many": (
        weights_changed(lambda weights: weights | {"model.layers.3.mlp.up_proj.weight": torch.ones(1)}),
        r"model\.layers\.3\.mlp\.up_proj\.weight is left over",
    ),
    "another shape": (
        weights_changed(lambda weights: weights | {NORM: torch.ones(33)}),
        r"model\.norm\.weight is \(33,\), not \(32,\)",
    ),
    "another type": (
        weights_changed(lambda weights: weights | {NORM: weights[NORM].double()}),
        r"model\.norm\.weight is F64, none of F32, BF16, F16",
    ),
    "another tokenizer": (
        with_another_tokenizer,
        r"not the tokenizer of the shards: 100 tokens differ.*'token 0', 100 there",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_checkpoint_that_is_not_the_model_is_refused(name: str, tmp_path: Path) -> None:
    damage, message = REFUSALS[name]
    jobs.write_hugging_face(tmp_path)
    damage(tmp_path)
    tokenizer = next(tmp_path / name for name in ("shards.json", "tokenizer.json") if (tmp_path / name).exists())
    job = jobs.job(tokenizer, start={"kind": "huggingface", "path": str(tmp_path)})
    with pytest.raises(UserError, match=message):
        initialize(job, tmp_path / "run")
    assert not (tmp_path / "run" / "initial").exists()


def test_an_output_layer_of_its_own_is_not_taken_for_the_embedding(tmp_path: Path) -> None:
    jobs.write_hugging_face(tmp_path, TIED)
    rewrite(tmp_path, lambda weights: weights | {"lm_head.weight": weights["model.embed_tokens.weight"] + 1})
    with pytest.raises(UserError, match=r"its lm_head\.weight is not its model\.embed_tokens\.weight"):
        imported(tmp_path, TIED)


def test_other_experts_are_named(tmp_path: Path) -> None:
    jobs.write_hugging_face(tmp_path, jobs.MIXTRAL)
    configured(num_experts_per_tok=3)(tmp_path)
    with pytest.raises(UserError, match=r"model\.moe\.router_topk is 2, there it is 3"):
        imported(tmp_path, jobs.MIXTRAL)


def branch(path: Path, model: ModelSettings = jobs.LLAMA) -> Job:
    return jobs.job(Path("tokenizer.json"), model, start={"kind": "checkpoint", "path": str(path)})


def test_a_branch_begins_with_the_weights_of_its_checkpoint(tmp_path: Path) -> None:
    initialize(drawn(), tmp_path)
    job = branch(tmp_path / "initial")
    other_seed = job.pretrain.model_copy(update={"weight_seed": 9})
    initialize(job.model_copy(update={"pretrain": other_seed}), tmp_path / "branch")
    assert sha256_tree(tmp_path / "branch" / "initial") == sha256_tree(tmp_path / "initial")


def test_a_damaged_or_absent_checkpoint_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"elsewhere' is no whole checkpoint: digests\.json is missing"):
        initialize(branch(tmp_path / "elsewhere"), tmp_path / "branch")
    initialize(drawn(), tmp_path)
    (tmp_path / "initial" / "common.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"is no whole checkpoint: common\.pt has 0 bytes"):
        initialize(branch(tmp_path / "initial"), tmp_path / "branch")


def test_a_checkpoint_of_another_model_is_no_start(tmp_path: Path) -> None:
    initialize(drawn(), tmp_path)
    deeper = jobs.LLAMA.model_copy(update={"num_layers": 4})
    with pytest.raises(UserError, match=r"of another model: .* is \(3, 32.*\) there and \(4, 32.*\) by params\.yaml"):
        initialize(branch(tmp_path / "initial", deeper), tmp_path / "branch")
