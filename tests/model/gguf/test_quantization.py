"""Perplexity of every type of file, in llama.cpp, of a model that was really trained."""

import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from model.gguf.quantization import KQUANTS, TYPES
from stages.errors import UserError
from tests.model.gguf import made

pytestmark = pytest.mark.e2e

PERPLEXITY = {
    "F32": 1e-5,
    "F16": 1e-4,
    "BF16": 1e-3,
    "Q8_0": 1e-3,
    "Q6_K": 3e-3,
    "Q5_K_M": 6e-3,
    "Q5_K_S": 6e-3,
    "Q4_K_M": 0.015,
    "Q4_K_S": 0.015,
    "Q4_0": 0.02,
    "Q3_K_L": 0.04,
    "Q3_K_M": 0.04,
    "Q3_K_S": 0.06,
    "Q2_K": 0.15,
}
"""By type of file, how much its perplexity may differ from that of `transformers` in float32, as a part of it."""
EPOCHS, WINDOWS, BATCH, LEARNING_RATE = 20, 32, 4, 3e-3


@pytest.fixture(scope="module")
def sample() -> torch.Tensor:
    """Return windows of ids `[b, s]` of the text that the model learns."""
    files = sorted((Path(sysconfig.get_path("stdlib")) / "email").glob("*.py"))
    ids = made.tokenizer().encode("".join(file.read_text(encoding="utf-8") for file in files)).ids
    return torch.tensor(ids[: WINDOWS * made.CONTEXT]).view(WINDOWS, made.CONTEXT)


@pytest.fixture(scope="module")
def trained(sample: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model whose rows fill the blocks of K-quants."""
    network: Any = made.model("llama tied", hidden_size=256, intermediate_size=512, num_hidden_layers=2)
    network.apply(network._init_weights)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * WINDOWS // BATCH)
    for batch in sample.repeat(EPOCHS, 1).split(BATCH):
        network(batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    network.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=1)
    return made.folder(tmp_path_factory.mktemp("trained") / "model", network.eval())


def perplexity(logits: torch.Tensor, ids: torch.Tensor) -> float:
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    return float(loss.exp())


def transformers_model(source: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(source).eval()


@pytest.fixture(scope="module")
def reference(trained: Path, sample: torch.Tensor) -> float:
    with torch.no_grad():
        return perplexity(transformers_model(trained)(sample).logits, sample)


def test_every_type_has_a_bound() -> None:
    assert PERPLEXITY.keys() == TYPES.keys() | KQUANTS.keys()


def test_the_model_is_trained(reference: float) -> None:
    assert reference < made.VOCAB_SIZE / 20


@pytest.mark.parametrize("kind", PERPLEXITY)
def test_perplexity_stays_within_the_bound_of_the_type(
    kind: str, trained: Path, sample: torch.Tensor, reference: float
) -> None:
    with made.llama(made.gguf(trained, kind)) as opened:
        logits = []
        for window in sample:
            opened.reset()
            opened.eval(window.tolist())
            logits.append(np.array(opened.scores[: made.CONTEXT]))
    measured = perplexity(torch.tensor(np.array(logits)), sample)
    assert abs(measured / reference - 1) < PERPLEXITY[kind]


def test_llama_cpp_continues_as_transformers_does(trained: Path) -> None:
    prompt, length = "def __init__(self, ", 48
    network = transformers_model(trained)
    ids = made.tokenizer().encode(prompt).ids
    ours = network.generate(torch.tensor([ids]), max_new_tokens=length, do_sample=False)[0, len(ids) :].tolist()
    with made.llama(made.gguf(trained)) as opened:
        made_by_llama = opened.create_completion(prompt, max_tokens=length, temperature=0.0, repeat_penalty=1.0)
    text = made_by_llama["choices"][0]["text"]
    assert text == made.tokenizer().decode(ours, skip_special_tokens=True)
    assert len(text) > 50


def test_k_quants_say_what_to_install(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"Q4_K_M needs llama.cpp: `python -m pip install llama-cpp-python`"):
        made.gguf(trained, "Q4_K_M")


def test_nothing_is_left_beside_a_k_quant(trained: Path) -> None:
    file = made.gguf(trained, "Q5_K_M")
    assert not [left.name for left in file.parent.iterdir() if "partial" in left.name or "unquantized" in left.name]
