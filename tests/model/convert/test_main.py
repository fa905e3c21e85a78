"""`python -m model.convert`: what it says, what it writes, and bad input, of which nothing is written."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from model.convert import __main__ as command
from model.convert import unsplit
from stages.errors import UserError
from stages.files import read_json, sha256_tree, write_json
from tests.model import jobs

Convert = Callable[..., None]
Damage = Callable[[Path], None]
NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch) -> Convert:
    def run(*arguments: str | Path) -> None:
        monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
        command.main()

    return run


def test_there_and_back_is_the_same_folder_but_for_the_cut_into_files(
    convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, again = tmp_path / "theirs", tmp_path / "again"
    jobs.write_hugging_face(theirs, jobs.MIXTRAL, bos_token_id=5, eos_token_id=[7, 9], pad_token_id=None)
    jobs.write_tokenizer(theirs / "tokenizer.json", [f"word {index}" for index in range(90)])
    convert("to-megatron", theirs, tmp_path / "checkpoint")
    convert("to-transformers", tmp_path / "checkpoint", again)
    assert sha256_tree(again) == sha256_tree(theirs)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("MixtralForCausalLM, family mixtral, 101 ids: {")
    size = sum(tensor.numel() for tensor in load_file(theirs / "model.safetensors").values())
    assert said[4] == f"{size:,} parameters in 60 tensors of `transformers`"
    assert said[5] == f"'{again}': {4 * size:,} bytes in 1 file, model.safetensors"


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(
    convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs.write_hugging_face(tmp_path / "theirs")
    convert("to-megatron", tmp_path / "theirs", tmp_path / "checkpoint", "--dtype", "bfloat16", "--dry-run")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
    convert("to-megatron", tmp_path / "theirs", tmp_path / "checkpoint", "--dtype", "bfloat16")
    convert("to-transformers", tmp_path / "checkpoint", tmp_path / "again", "--shard-size", "20KB", "--dry-run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "theirs"]
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == said[3:6]
    assert said[8].endswith("bytes in 4 files, model-00001-of-00004.safetensors to model-00004-of-00004.safetensors")
    convert("to-transformers", tmp_path / "checkpoint", tmp_path / "again", "--shard-size", "20KB")
    assert len(list((tmp_path / "again").glob("model-0000?-of-00004.safetensors"))) == 4
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert loaded.dtype == torch.bfloat16


def test_a_dry_run_reads_every_weight(convert: Convert, tmp_path: Path) -> None:
    jobs.write_hugging_face(tmp_path / "theirs")
    convert("to-megatron", tmp_path / "theirs", tmp_path / "checkpoint")
    not_finite(torch.nan, 3)(tmp_path / "theirs")
    with pytest.raises(UserError, match=rf"{NORM} has 3 of 32 values that are NaN"):
        convert("to-megatron", tmp_path / "theirs", tmp_path / "other", "--dry-run")
    spoil(tmp_path / "checkpoint")
    with pytest.raises(UserError, match="missing or damaged at"):
        convert("to-transformers", tmp_path / "checkpoint", tmp_path / "again", "--dry-run")


def test_a_folder_without_a_tokenizer_comes_back_without_one(convert: Convert, tmp_path: Path) -> None:
    jobs.write_hugging_face(tmp_path / "theirs")
    for name in ("tokenizer.json", "generation_config.json"):
        (tmp_path / "theirs" / name).unlink()
    convert("to-megatron", tmp_path / "theirs", tmp_path / "checkpoint")
    convert("to-transformers", tmp_path / "checkpoint", tmp_path / "again")
    names = {file.name for file in (tmp_path / "again").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}


def test_a_run_whose_tokenizer_is_gone_says_where_it_was(convert: Convert, tmp_path: Path) -> None:
    job = jobs.job(Path("out/tokenizer/tokenizer.json"))
    write_json(tmp_path / "out/pretrain/run.json", {"settings": job.model_dump(mode="json")}, sort_keys=False)
    with pytest.raises(UserError, match=r"the tokenizer of '.*/checkpoint' is not in '.*/out/tokenizer'"):
        convert("to-transformers", tmp_path / "out/pretrain/checkpoint", tmp_path / "again")


def test_a_checkpoint_of_a_run_is_what_the_run_had_made_by_then(convert: Convert, tmp_path: Path) -> None:
    run = tmp_path / "out" / "pretrain"
    settings = jobs.job(Path("out/tokenizer/tokenizer.json")).model_dump(mode="json")
    phase = {"tokens": 1024, "blend": {"code": 1.0}, "global_batch_size": 4}
    settings["pretrain"]["phases"] = {"main": phase, "long": phase | {"seq_length": 32, "rotary_base": 5e5}}
    write_json(run / "run.json", {"settings": settings}, sort_keys=False)
    (tmp_path / "out" / "tokenizer").mkdir()
    jobs.write_tokenizer(tmp_path / "out" / "tokenizer" / "tokenizer.json", ["a", "b"])
    with unsplit.process(num_threads=1, seed=1):
        decoder = unsplit.build(jobs.LLAMA, jobs.VOCAB_SIZE)
        for name in (
            "checkpoint",
            "checkpoints/step-00000000",
            "checkpoints/step-00000016",
            "checkpoints/step-00000017",
        ):
            unsplit.save(run / name, decoder)
    lengths = {}
    for path in (run / "checkpoint", *(run / "checkpoints").iterdir()):
        convert("to-transformers", path, tmp_path / path.name)
        config = read_json(tmp_path / path.name / "config.json")
        lengths[path.name] = config["max_position_embeddings"], config["rope_parameters"]["rope_theta"]
        assert (tmp_path / path.name / "tokenizer.json").exists()
        assert (config["bos_token_id"], config["pad_token_id"]) == (0, 1)
    assert lengths == {
        "checkpoint": (32, 5e5),
        "step-00000000": (16, 1e4),
        "step-00000016": (16, 1e4),
        "step-00000017": (32, 5e5),
    }


def configured(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        write_json(folder / "config.json", read_json(folder / "config.json") | changes)

    return damage


def changed(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    """Return what replaces the weights by what `change` makes of them."""

    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        save_file(weights | change(weights), folder / "model.safetensors")

    return damage


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def without_norm(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[NORM]
    save_file(weights, folder / "model.safetensors")


def in_two_files(folder: Path) -> None:
    """Leave the norm in both files."""
    save_file({NORM: torch.ones(32)}, folder / "other.safetensors")
    write_json(
        folder / "model.safetensors.index.json", {"weight_map": {"a": "model.safetensors", "b": "other.safetensors"}}
    )


def not_finite(value: float, count: int) -> Damage:
    return changed(lambda weights: {NORM: torch.where(torch.arange(32) < count, value, weights[NORM])})


REFUSED: dict[str, tuple[Damage, str]] = {
    "an unknown architecture": (
        configured(architectures=["GPT2LMHeadModel"]),
        r"\['GPT2LMHeadModel'\]; known are \[.*'LlamaForCausalLM'.*'Qwen3ForCausalLM'",
    ),
    "a feature the family lacks": (
        configured(hidden_act="gelu"),
        r'family llama does not support, and what would be lost: hidden_act = "gelu", which would be "silu"',
    ),
    "quantised": (configured(quantization_config={}), "holds quantised weights"),
    "missing": (without_norm, rf"not the model's: {NORM} is missing"),
    "left over": (changed(lambda weights: {"model.layers.3.b": torch.ones(1)}), r"model\.layers\.3\.b is left over"),
    "misshapen": (changed(lambda weights: {NORM: torch.ones(33)}), rf"{NORM} is \(33,\), not \(32,\)"),
    "twice": (in_two_files, rf"{NORM} is in '.*/model\.safetensors' too"),
    "an index without a map": (
        lambda folder: write_json(folder / "model.safetensors.index.json", []),
        r"index\.json' is damaged \(it has no weight_map\)",
    ),
    "an unknown type": (
        changed(lambda weights: {NORM: weights[NORM].to(torch.float8_e4m3fn)}),
        rf"{NORM} is F8_E4M3, none of F32, BF16, F16",
    ),
    "several types": (
        changed(lambda weights: {NORM: weights[NORM].bfloat16()}),
        r"have several types: decoder\.layers\.\S*layer_norm_weight is BF16 and F32. Choose one dtype",
    ),
    "not numbers": (not_finite(torch.nan, 3), rf"{NORM} has 3 of 32 values that are NaN or infinite"),
    "infinities": (not_finite(-torch.inf, 1), rf"{NORM} has 1 of 32 values that are NaN or infinite"),
    "cut off": (cut, r"model\.safetensors' is damaged \(.+\); copy it again"),
    "tokens beyond the vocabulary": (
        lambda folder: jobs.write_tokenizer(folder / "tokenizer.json", [f"t{index}" for index in range(103)]),
        r"beyond its vocab_size = 101: its token 't101' is 101; its token 't102' is 102",
    ),
    "a special token beyond the vocabulary": (
        configured(eos_token_id=[3, 200]),
        r"beyond its vocab_size = 101: its eos_token_id is 200",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_by_name_and_nothing_is_left_half_written(
    name: str, convert: Convert, tmp_path: Path
) -> None:
    damage, message = REFUSED[name]
    jobs.write_hugging_face(tmp_path / "theirs")
    damage(tmp_path / "theirs")
    with pytest.raises(UserError, match=message):
        convert("to-megatron", tmp_path / "theirs", tmp_path / "checkpoint")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_large_finite_weights_are_no_infinities(convert: Convert, tmp_path: Path) -> None:
    jobs.write_hugging_face(tmp_path / "theirs")
    not_finite(3e38, 32)(tmp_path / "theirs")
    convert("to-megatron", tmp_path / "theirs", tmp_path / "checkpoint")
    convert("to-transformers", tmp_path / "checkpoint", tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors")[NORM].eq(3e38).all()


def spoil(folder: Path) -> None:
    (file,) = folder.glob("*.distcp")
    file.write_bytes(file.read_bytes()[:-5000])


def of_another_model(folder: Path) -> None:
    described = read_json(folder / "model.json")
    described["model"]["num_layers"] = 4
    write_json(folder / "model.json", described)


UNREADABLE: dict[str, tuple[Damage, str]] = {
    "cut off": (spoil, r"distcp' is missing or damaged at \S+ \("),
    "of another model": (of_another_model, r"of another model than its settings say: .* is \(3, .*\), not \(4, "),
    "without an index": (lambda folder: (folder / ".metadata").unlink(), r"no whole checkpoint: its \.metadata"),
    "not described": (lambda folder: (folder / "model.json").unlink(), r"nothing says which model '.*' holds"),
    "badly described": (lambda folder: write_json(folder / "model.json", {}), r"model\.json' is damaged \('model'\)"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_bad_checkpoint_is_refused_by_name_and_nothing_is_left_half_written(
    name: str, convert: Convert, tmp_path: Path
) -> None:
    damage, message = UNREADABLE[name]
    jobs.write_hugging_face(tmp_path / "theirs")
    convert("to-megatron", tmp_path / "theirs", tmp_path / "checkpoint")
    damage(tmp_path / "checkpoint")
    with pytest.raises(UserError, match=message):
        convert("to-transformers", tmp_path / "checkpoint", tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "theirs"]


def test_what_is_there_is_not_replaced(convert: Convert, tmp_path: Path) -> None:
    jobs.write_hugging_face(tmp_path / "theirs")
    with pytest.raises(UserError, match=r"theirs' is there already; choose another name"):
        convert("to-megatron", tmp_path / "theirs", tmp_path / "theirs")


@pytest.mark.parametrize("size", ["0", "5 apples", "-3GB", "GB"])
def test_a_size_is_a_number_of_bytes(size: str, convert: Convert, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        convert("to-transformers", "a", "b", f"--shard-size={size}")
    assert "is no size; write one such as 500MB or 5GB" in capsys.readouterr().err
