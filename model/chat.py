"""Let a model continue a text, offline: `python -m model.chat out/export`.

It is a base model: it knows no roles and answers no questions, it continues what you write. Reads an exported folder
(the stage's, or `model/` in it), or a .gguf file where llama.cpp is installed. With `--prompt` it continues that one
and ends; without, it asks for texts until the input ends (Ctrl-D). The continuation appears as it is made.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.errors import UserError
from stages.runner import run

Continue = Callable[[str], None]
"""Writes the continuation of a text to the standard output."""


@dataclass(frozen=True)
class Sampling:
    """How a text is continued."""

    max_new_tokens: int
    """Length of a continuation, unless the model ends the document."""
    temperature: float
    """Divides the logits; 0 takes the likeliest token."""
    seed: int
    """Of all draws."""
    threads: int
    """CPU threads."""


def main() -> None:
    """Continue one text, or one after the other."""
    options = _options()
    if options.max_new_tokens < 1 or options.temperature < 0 or options.threads < 1:
        raise UserError("--max-new-tokens and --threads must be at least 1, --temperature at least 0")
    sampling = Sampling(options.max_new_tokens, options.temperature, options.seed, options.threads)
    continue_ = (_llama_cpp if options.model.suffix == ".gguf" else _transformers)(options.model, sampling)
    if options.prompt is None:
        _ask(continue_)
    else:
        continue_(options.prompt)


def _ask(continue_: Continue) -> None:
    """Continue every line that is entered; one that is too long is no reason to end."""
    sys.stderr.write("This is a base model: it continues your text. End with Ctrl-D.\n")
    while True:
        try:
            continue_(input("> " if sys.stdin.isatty() else ""))
        except (EOFError, KeyboardInterrupt):
            sys.stderr.write("\n")
            return
        except UserError as error:
            sys.stderr.write(f"{error}\n")


def _transformers(path: Path, sampling: Sampling) -> Continue:
    """Return what continues with an exported folder; an empty text is the start of a document."""
    folder = path / "model" if (path / "model" / "config.json").exists() else path
    if not (folder / "config.json").exists():
        raise UserError(f"'{folder}' has no config.json. Run `dvc repro export`, or name a folder of transformers.")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(sampling.threads)
    torch.manual_seed(sampling.seed)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    start = model.config.eos_token_id if model.config.bos_token_id is None else model.config.bos_token_id
    draws: dict[str, Any] = {"do_sample": sampling.temperature > 0}
    if sampling.temperature:
        draws |= {"temperature": sampling.temperature, "top_k": 0}

    def continue_(text: str) -> None:
        # a special token's name in a text is ordinary text, as in training
        ids = torch.tensor([tokenizer(text, split_special_tokens=True)["input_ids"] or [start]])
        length = _length(ids.shape[1], model.config.max_position_embeddings, sampling)
        streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, streamer=streamer, **draws)

    return continue_


def _llama_cpp(file: Path, sampling: Sampling) -> Continue:
    """Return what continues with a GGUF file; an empty text is the start of a document."""
    from model.gguf import llama_cpp_quantizer

    llama_cpp_quantizer.check_installed(f"'{file}'")
    import llama_cpp

    if not file.exists():
        raise UserError(f"'{file}' is missing. Write it with `python -m model.gguf out/export {file}`.")
    threads: Any = {"n_threads": sampling.threads, "n_threads_batch": sampling.threads}
    try:
        model = llama_cpp.Llama(str(file), n_ctx=0, seed=sampling.seed, verbose=False, **threads)
    except ValueError as error:
        raise UserError(f"llama.cpp cannot read '{file}' ({error}); write it again") from None
    context = int(model.metadata[f"{model.metadata['general.architecture']}.context_length"])
    # the model's own distribution, without what llama.cpp would do to it
    draws: Any = {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}

    def continue_(text: str) -> None:
        ids = model.tokenize(text.encode(), special=False) or [model.token_bos()]
        length = _length(len(ids), context, sampling)
        made: Any = model.create_completion(ids, max_tokens=length, stream=True, **draws)
        for part in made:
            sys.stdout.write(part["choices"][0]["text"])
            sys.stdout.flush()
        sys.stdout.write("\n")

    return continue_


def _length(used: int, context: int, sampling: Sampling) -> int:
    """Return how many tokens are made.

    Raises:
        UserError: None can be.
    """
    if used >= context:
        raise UserError(f"the text has {used} tokens, and the model sees {context}; shorten it")
    return min(sampling.max_new_tokens, context - used)


def _options() -> argparse.Namespace:
    threads = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="python -m model.chat", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, help="out/export, a folder of transformers, or a .gguf file")
    parser.add_argument("--prompt", help="the text to continue; asked for without it")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="length of a continuation (default: 128)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (default: 0.8)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default: 0)")
    parser.add_argument("--threads", type=int, default=threads, help=f"CPU threads (default: all, {threads})")
    return parser.parse_args()


if __name__ == "__main__":
    run("chat", main)
