import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from model import chat
from stages.errors import UserError
from tests.model.gguf import made

PROMPT = "def <|endoftext|>(self):"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what the export stage leaves: a folder with the model in it."""
    folder = tmp_path_factory.mktemp("export")
    made.folder(folder / "model", made.model("llama"))
    return folder


@pytest.fixture(scope="module")
def gguf(exported: Path) -> Path:
    return made.gguf(exported / "model")


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, *options: str) -> str:
    """Return what the command writes to the standard output."""
    monkeypatch.setattr(sys, "argv", ["chat", str(model), "--threads", "1", *options])
    capsys.readouterr()
    chat.main()
    return capsys.readouterr().out


def greedy(exported: Path, prompt: str, length: int) -> str:
    """Return the likeliest continuation, token by token; names of special tokens in the prompt are text."""
    network: Any = made.model("llama")
    tokenizer = made.tokenizer()
    tokenizer.encode_special_tokens = True
    ids = tokenizer.encode(prompt).ids
    for _ in range(length):
        with torch.no_grad():
            ids.append(int(network(torch.tensor([ids])).logits[0, -1].argmax()))
    return str(tokenizer.decode(ids[len(ids) - length :]))


@pytest.mark.parametrize("format_", ["folder", "gguf"])
def test_temperature_zero_continues_with_the_likeliest_tokens(
    format_: str, exported: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = exported if format_ == "folder" else gguf
    options = ("--prompt", PROMPT, "--temperature", "0", "--max-new-tokens", "12")
    assert run(monkeypatch, capsys, model, *options) == greedy(exported, PROMPT, 12) + "\n"


@pytest.mark.parametrize("format_", ["folder", "gguf"])
def test_the_seed_decides_the_continuation(
    format_: str, exported: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = exported if format_ == "folder" else gguf
    options = ("--prompt", PROMPT, "--max-new-tokens", "12", "--seed")
    first, again, other = (run(monkeypatch, capsys, model, *options, seed) for seed in ("1", "1", "2"))
    assert first == again != other


def test_every_line_of_the_input_is_continued_but_one_that_is_too_long(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"import os\n{'x = 1; ' * made.CONTEXT}\nclass A\n"))
    out = run(monkeypatch, capsys, exported / "model", "--temperature", "0", "--max-new-tokens", "4")
    assert out == greedy(exported, "import os", 4) + "\n" + greedy(exported, "class A", 4) + "\n"


@pytest.mark.parametrize("format_", ["folder", "gguf"])
def test_an_empty_text_is_the_start_of_a_document(
    format_: str, exported: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network: Any = made.model("llama")
    with torch.no_grad():
        likeliest = int(network(torch.tensor([[0]])).logits[0, -1].argmax())
    out = run(
        monkeypatch, capsys, exported if format_ == "folder" else gguf, "--prompt", "", "--max-new-tokens", "1",
        "--temperature", "0",
    )  # fmt: skip
    assert out == made.tokenizer().decode([likeliest]) + "\n"


def test_the_command_line_is_refused_by_name(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"has no config.json. Run `dvc repro export`"):
        run(monkeypatch, capsys, tmp_path, "--prompt", "a")
    with pytest.raises(UserError, match=r"none.gguf' is missing"):
        run(monkeypatch, capsys, tmp_path / "none.gguf", "--prompt", "a")
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"llama.cpp cannot read .*damaged.gguf"):
        run(monkeypatch, capsys, tmp_path / "damaged.gguf", "--prompt", "a")
    with pytest.raises(UserError, match=r"--temperature at least 0"):
        run(monkeypatch, capsys, exported, "--prompt", "a", "--temperature", "-1")


@pytest.mark.parametrize("format_", ["folder", "gguf"])
def test_a_text_that_fills_the_context_is_refused(
    format_: str, exported: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = exported if format_ == "folder" else gguf
    with pytest.raises(UserError, match=rf"tokens, and the model sees {made.CONTEXT}; shorten it"):
        run(monkeypatch, capsys, model, "--prompt", "x = 1\n" * made.CONTEXT)
