"""`transformers` as the judge of what is exported: it loads, generates and saves every family without our code."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.convert import export, unsplit
from model.convert.described import Described
from model.convert.to_transformers import Export
from model.families.family import ModelSettings, by_name
from model.network.decoder import Decoder
from stages.corpus import bpe, vocabulary
from stages.errors import UserError
from tests.model.families import table
from tests.model.families.test_parity import megatron_model

END, PAD = 0, 1
PROMPT = torch.randint(2, table.VOCAB_SIZE, (1, 20), generator=torch.Generator().manual_seed(13))
"""Longer than the sliding windows."""
NEW_TOKENS = 8
SHARD_SIZE = 2**17
TEXTS = (
    "def f(x):\n    return 1234567",
    "cafe\u0301 \u212b \ufb01",
    "  two  spaces\n\n",
    "<|endoftext|>a<|padding|>",
    "\x00\t\r\n",
)
"""Runs of digits and white space, characters that Unicode normalises, and special tokens."""


class Exported(NamedTuple):
    model: ModelSettings
    folder: Path
    network: Any
    """As `AutoModelForCausalLM` loads it."""
    faults: dict[str, Any]
    """Of loading."""


@pytest.fixture(scope="module", params=table.ROWS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A random model of a row that Megatron-Core saved, and that was written from there."""
    root, model = tmp_path_factory.mktemp("exported"), table.settings(request.param)
    source = table.transformers_model(model)
    with unsplit.process(num_threads=1):
        decoder = megatron_model(model, table.on_disk(source, source.state_dict()))
        write(model, decoder, root)
    loaded: Any = AutoModelForCausalLM.from_pretrained(root / "model", output_loading_info=True)
    return Exported(model, root / "model", *loaded)


def write(model: ModelSettings, decoder: Decoder, root: Path) -> Described:
    """Save a model below a folder, and export it from there to `model`."""
    unsplit.save(root / "weights", decoder)
    ids = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": PAD}
    described = Described(model, table.VOCAB_SIZE, ids, tokenizer=None)
    described.write(Export(root / "weights", model, table.VOCAB_SIZE, torch.float32, SHARD_SIZE), root / "model")
    return described


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def test_the_named_class_loads_and_nothing_is_missing_or_left_over(exported: Exported) -> None:
    assert type(exported.network).__name__ == exported.model.architecture
    assert type(exported.network).__module__.startswith("transformers.")
    assert {kind: keys for kind, keys in exported.faults.items() if keys} == {}
    assert len(list(exported.folder.glob("*.safetensors"))) > 1, "in shards"


def test_generation_with_and_without_a_cache_is_that_of_whole_forward_passes(exported: Exported) -> None:
    options = {"attention_mask": torch.ones_like(PROMPT), "max_new_tokens": NEW_TOKENS, "do_sample": False}
    expected = greedy(exported.network)
    assert END not in expected, "generation would end early; choose another prompt"
    for use_cache in (True, False):
        assert torch.equal(exported.network.generate(PROMPT, use_cache=use_cache, **options), expected)


def greedy(network: Any) -> Tensor:
    """Return the prompt and the likeliest next tokens, each from a pass over all before it."""
    tokens = PROMPT
    for _ in range(NEW_TOKENS):
        with torch.no_grad():
            logits = network(tokens, use_cache=False).logits[:, -1]
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    return tokens


def test_a_model_that_is_loaded_and_saved_has_the_same_bits(exported: Exported, tmp_path: Path) -> None:
    exported.network.save_pretrained(tmp_path)
    before, after = tensors(exported.folder), tensors(tmp_path)
    assert after.keys() == before.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    for name in ("config.json", "generation_config.json"):
        assert (tmp_path / name).read_text() == (exported.folder / name).read_text()


@pytest.mark.parametrize("num_layers", [2, 61])
def test_deepseek_v3_is_loaded_with_layers_for_further_tokens(num_layers: int, tmp_path: Path) -> None:
    """`transformers` knows them by their place behind 61 layers, the published model's, and drafts tokens with them."""
    moe = {**table.ROWS["deepseek_v3"]["moe"], "num_dense_layers": num_layers - 1}
    shape = {"num_layers": num_layers, "mtp_num_layers": 1, "init_method_std": 0.2, "moe": moe}
    model = ModelSettings.model_validate_json(json.dumps(table.SHAPE | table.ROWS["deepseek_v3"] | shape))
    with unsplit.process(num_threads=1, seed=1):
        described = write(model, unsplit.build(model, table.VOCAB_SIZE), tmp_path)
    network: Any = export.load(tmp_path / "model", described)
    assert f"model.layers.{num_layers}.eh_proj.weight" in tensors(tmp_path / "model")
    if num_layers == 61:
        found = network.generate(PROMPT, use_mtp=True, max_new_tokens=NEW_TOKENS, do_sample=False)
        assert torch.equal(found, greedy(network))


@pytest.fixture(scope="module")
def tokenizer_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary.save(bpe.train(TEXTS * 9, 300), folder)
    return folder


def with_tokenizer(family: str, tokenizer_files: Path, folder: Path) -> Path:
    shutil.copytree(tokenizer_files, folder, dirs_exist_ok=True)
    config: Any = getattr(transformers, by_name()[family].architecture).config_class
    config(vocab_size=300, bos_token_id=END, eos_token_id=END, pad_token_id=PAD).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", sorted(by_name().keys() - {"qwen2"}))
def test_the_tokenizer_is_read_as_it_is(family: str, tokenizer_files: Path, tmp_path: Path) -> None:
    export.check_tokenizer(with_tokenizer(family, tokenizer_files, tmp_path))
    found, expected = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert (found.eos_token_id, found.pad_token_id, len(found)) == (END, PAD, expected.get_vocab_size())
    for text in TEXTS:
        assert found(text).input_ids == expected.encode(text).ids
        assert found.decode(found(text).input_ids) == text


def test_a_tokenizer_that_would_be_read_by_other_rules_is_refused(tokenizer_files: Path, tmp_path: Path) -> None:
    """`AutoTokenizer` asks the type of the model first, and gives qwen2 the rules of Qwen's own tokenizer."""
    folder = with_tokenizer("qwen2", tokenizer_files, tmp_path)
    found, expected = AutoTokenizer.from_pretrained(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert [text for text in TEXTS if found(text).input_ids != expected.encode(text).ids]
    with pytest.raises(UserError, match="tokenizer of a qwen2 model by rules of its own: normalizer, pre_tokenizer"):
        export.check_tokenizer(folder)
