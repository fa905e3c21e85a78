"""An exported base model as a starting point: TRL fine-tunes it on examples and aligns it to preferences."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from tests.model import corpus

pytestmark = pytest.mark.slow

CONTEXT = 64
MODULES = ("abc", "ast", "csv", "email", "json", "logging", "math", "os", "re", "string", "sys", "time")
IMPORTS = [{"prompt": f"# {name}\n", "completion": f"import {name}\n"} for name in MODULES]
PREFERENCES = [{"prompt": f"# {name}\n", "chosen": f"import {name}\n", "rejected": f"del {name}\n"} for name in MODULES]
OPTIONS: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "max_length": CONTEXT,
    "logging_steps": 6,
    "save_strategy": "no",
    "report_to": [],
    "use_cpu": True,
    "disable_tqdm": True,
    "seed": 1,
}


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)  # TRL counts its users
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, stage_environment: dict[str, str]) -> str:
    """The folder of a base model that the stages pretrained a little and exported."""
    root = tmp_path_factory.mktemp("base")
    corpus.write(root)
    corpus.write_params(root, corpus.params(steps=150))
    for stage in ("pretrain", "export"):
        command = [sys.executable, "-m", f"stages.{stage}"]
        ended = subprocess.run(command, cwd=root, env=stage_environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    return str(root / "out/export/model")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def logged(trainer: Any, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def continuation(folder: str | Path, prompt: str) -> list[int]:
    """Return the ids that a saved model appends to a prompt, under its own generation_config."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    inputs = AutoTokenizer.from_pretrained(folder)(prompt, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=20, do_sample=False)[0]
    return [int(index) for index in ids[inputs["input_ids"].shape[1] :]]


def test_a_base_model_is_fine_tuned_on_examples_and_then_ends_its_answers(base: str, tmp_path: Path) -> None:
    """No chat template: prompt and completion are plain text, and TRL appends the end-of-document token."""
    trainer: Any = SFTTrainer(
        model=base,
        args=SFTConfig(output_dir=str(tmp_path), max_steps=120, learning_rate=3e-3, **OPTIONS),
        train_dataset=Dataset.from_list(IMPORTS),
    )
    tokenizer: Any = trainer.processing_class
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.chat_template) == (0, 1, None)
    example = trainer.train_dataset[0]
    asked = len(tokenizer(IMPORTS[0]["prompt"]).input_ids)
    assert example["labels"] == [-100] * asked + example["input_ids"][asked:], "the answer alone is learnt"
    assert example["labels"][-1] == tokenizer.eos_token_id
    trainer.train()
    losses = logged(trainer, "loss")
    assert losses[-1] < 0.1 * losses[0]
    trainer.save_model()
    for row in IMPORTS:
        ids = continuation(tmp_path, row["prompt"])
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[:-1]) == row["completion"]
    assert continuation(base, IMPORTS[0]["prompt"]) != continuation(tmp_path, IMPORTS[0]["prompt"])


def test_a_base_model_is_aligned_to_preferences(base: str, tmp_path: Path) -> None:
    trainer: Any = DPOTrainer(
        model=base,
        args=DPOConfig(output_dir=str(tmp_path), max_steps=60, learning_rate=1e-3, **OPTIONS),
        train_dataset=Dataset.from_list(PREFERENCES),
    )
    trainer.train()
    margins, accuracies = logged(trainer, "rewards/margins"), logged(trainer, "rewards/accuracies")
    assert margins[-1] > max(1.0, 2 * margins[0])
    assert accuracies[-1] == 1.0
    trainer.save_model()
    trained, aligned = (preference(folder) for folder in (base, tmp_path))
    assert (aligned > trained + 1).all(), "in the saved model too, and for every pair"


def preference(folder: str | Path) -> torch.Tensor:
    """Return by how many nats a saved model prefers the chosen completion of each pair."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def log_likelihood(prompt: str, completion: str) -> torch.Tensor:
        asked, answer = (tokenizer(text, return_tensors="pt").input_ids for text in (prompt, completion))
        with torch.no_grad():
            logits: torch.Tensor = model(torch.cat([asked, answer], dim=1)).logits[:, asked.shape[1] - 1 : -1]
        return logits.log_softmax(-1).gather(-1, answer.unsqueeze(-1)).sum()

    pairs = [
        log_likelihood(row["prompt"], row["chosen"]) - log_likelihood(row["prompt"], row["rejected"])
        for row in PREFERENCES
    ]
    return torch.stack(pairs)
