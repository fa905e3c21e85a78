"""Let a model continue a text, offline: `python -m model.chat out/export`.

It is a base model: it knows no roles and answers no questions, it continues what you write. Reads an exported folder
(the stage's, or `model/` in it), or a .gguf file where llama.cpp is installed. With `--prompt` it continues that one
and ends; without, it asks for texts until the input ends (Ctrl-D). The continuation appears as it is made.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.errors import UserError
from stages.runner import run

Continue = Callable[[str], None]
"""Writes the continuation of a text to the standard output."""


def main() -> None:
    """Continue one text, or one after the other."""
    options = _options()
    if options.max_new_tokens < 1 or options.temperature < 0:
        raise UserError("--max-new-tokens must be at least 1 and --temperature at least 0")
    load = _llama_cpp if options.model.suffix == ".gguf" else _transformers
    continue_ = load(options.model, options.max_new_tokens, options.temperature, options.seed)
    if options.prompt is None:
        _ask(continue_)
    else:
        continue_(options.prompt)


def _ask(continue_: Continue) -> None:
    """Continue every line that is entered."""
    sys.stderr.write("This is a base model: it continues your text. End with Ctrl-D.\n")
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            sys.stderr.write("\n")
            return
        continue_(text)


def _transformers(path: Path, max_new_tokens: int, temperature: float, seed: int) -> Continue:
    """Return what continues with an exported folder; an empty text is the start of a document."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the import
    folder = path / "model" if (path / "model" / "config.json").exists() else path
    if not (folder / "config.json").exists():
        raise UserError(f"'{folder}' has no config.json. Run `dvc repro export`, or name a folder of transformers.")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}

    def continue_(text: str) -> None:
        # a special token's name in a text is ordinary text, as in training
        ids = tokenizer(text, split_special_tokens=True)["input_ids"] or [model.config.bos_token_id]
        room = _room(len(ids), model.config.max_position_embeddings)
        streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        inputs = torch.tensor([ids])
        model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=min(max_new_tokens, room),
            streamer=streamer,
            **sampling,
        )

    return continue_


def _llama_cpp(file: Path, max_new_tokens: int, temperature: float, seed: int) -> Continue:
    """Return what continues with a GGUF file."""
    from model.gguf import llama_cpp_quantizer

    llama_cpp_quantizer.check_installed(f"'{file}'")
    import llama_cpp

    if not file.exists():
        raise UserError(f"'{file}' is missing. Write it with `python -m model.gguf out/export {file}`.")
    model = llama_cpp.Llama(str(file), n_ctx=0, seed=seed, verbose=False)
    architecture = model.metadata["general.architecture"]
    plain: Any = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}  # the model's own distribution

    def continue_(text: str) -> None:
        ids = model.tokenize(text.encode(), special=False) or [model.token_bos()]
        room = _room(len(ids), int(model.metadata[f"{architecture}.context_length"]))
        made: Any = model.create_completion(
            ids, max_tokens=min(max_new_tokens, room), temperature=temperature, stream=True, **plain
        )
        for part in made:
            sys.stdout.write(part["choices"][0]["text"])
            sys.stdout.flush()
        sys.stdout.write("\n")

    return continue_


def _room(used: int, context: int) -> int:
    """Return how many tokens can follow.

    Raises:
        UserError: None can.
    """
    if used >= context:
        raise UserError(f"the text has {used} tokens, and the model sees {context}; shorten it")
    return context - used


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.chat", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, help="out/export, a folder of transformers, or a .gguf file")
    parser.add_argument("--prompt", help="the text to continue; asked for without it")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="length of a continuation (default: 128)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (default: 0.8)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default: 0)")
    return parser.parse_args()


if __name__ == "__main__":
    run("chat", main)
