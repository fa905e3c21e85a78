"""What a checkpoint's model is, beside its weights: settings, ids of tokens, tokenizer."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import GenerationConfig

from model.convert.config import OTHER, Ids, from_config, to_config
from model.convert.faults import listed
from model.convert.to_transformers import Export
from model.families.family import ModelSettings
from model.job import Job
from stages.errors import UserError
from stages.files import read_json, write_json

NAME = "model.json"
"""The file in a converted checkpoint that describes its model."""
TOKENIZER = "tokenizer"
"""The folder in a converted checkpoint of its tokenizer's files."""
FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""What of a `transformers` folder goes with its weights as it is."""
_KEPT = OTHER - {"_name_or_path", "architectures", "dtype", "transformers_version", "vocab_size"}


@dataclass(frozen=True)
class Described:
    """A model without its weights."""

    model: ModelSettings
    """Its settings."""
    vocab_size: int
    """Its ids."""
    config: dict[str, Any]
    """What `transformers` says of it that is not in the settings, ids of special tokens first of all."""
    tokenizer: Path | None
    """Folder of the tokenizer, if it is known."""
    model_max_length: int | None = None
    """The longest context, if the tokenizer's own configuration does not know it."""

    def write(self, weights: Export, folder: Path, progress: Callable[[int], object] = lambda _: None) -> None:
        """Write configuration, weights and tokenizer as `save_pretrained` would.

        Args:
            weights: Of the model.
            folder: Where; it is made.
            progress: As for `Export.write`.

        Raises:
            UserError: A weight is not finite, or the tokenizer has other ids than the model.
        """
        folder.mkdir(parents=True, exist_ok=True)
        config = to_config(self.model, Ids(self.vocab_size, 0, 0), weights.dtype)
        config.update(self.config)
        config.save_pretrained(folder)
        special = {key: value for key, value in self.config.items() if key.endswith("_token_id")}
        GenerationConfig(**special).save_pretrained(folder)
        if self.tokenizer:
            self._write_tokenizer(self.tokenizer, folder)
        weights.write(folder, progress)

    def _write_tokenizer(self, source: Path, folder: Path) -> None:
        for file in sorted(source.iterdir()):
            if file.name in FILES:
                shutil.copyfile(file, folder / file.name)
        known = folder / "tokenizer_config.json"
        if self.model_max_length and known.exists():
            write_json(known, {**read_json(known), "model_max_length": self.model_max_length})

    def documents(self) -> dict[str, Any]:
        """Return what a checkpoint carries, so that `of_checkpoint` returns this: files by name."""
        files = sorted(self.tokenizer.iterdir()) if self.tokenizer else []
        return {
            NAME: {"model": self.model.model_dump(), "vocab_size": self.vocab_size, "config": self.config},
            **{f"{TOKENIZER}/{file.name}": file.read_bytes() for file in files if file.name in FILES},
        }

    def check_tokens(self, where: Path) -> None:
        """Refuse ids that the model has no weights for.

        Args:
            where: Said in the message.

        Raises:
            UserError: An id of the tokenizer, or of a special token, is not below the vocabulary's size; or there is no
                tokenizer where it should be.
        """
        if self.tokenizer and not self.tokenizer.is_dir():
            raise UserError(f"the tokenizer of '{where}' is not in '{self.tokenizer}'; bring it back")
        special = {key: value for key, value in self.config.items() if key.endswith("_token_id")}
        tokens = {f"its {key}": index for key, value in special.items() for index in _ids(value)}
        file = self.tokenizer and self.tokenizer / "tokenizer.json"
        if file and file.exists():
            tokens |= {
                f"its token {token!r}": index for token, index in Tokenizer.from_file(str(file)).get_vocab().items()
            }
        beyond = [f"{token} is {index}" for token, index in sorted(tokens.items()) if index >= self.vocab_size]
        if beyond:
            raise UserError(
                f"'{where}' has ids beyond its vocab_size = {self.vocab_size}: {listed(beyond)}. Choose the tokenizer "
                "that the model was trained with."
            )


def _ids(value: Any) -> list[int]:
    """Return the ids of a special token: none, one or several."""
    return [] if value is None else value if isinstance(value, list) else [value]


def of_folder(folder: Path) -> Described:
    """Return the model of a `transformers` folder.

    Raises:
        UserError: As for `from_config`; or its tokenizer has ids that the model lacks.
    """
    model, config = from_config(folder)
    values = config.to_dict()
    kept = {key: values[key] for key in sorted(_KEPT & values.keys())}
    described = Described(model, config.vocab_size, kept, folder)
    described.check_tokens(folder)
    return described


def of_run(job: Job, step: int | None = None) -> Described:
    """Return the model that a run leaves after a step, or at its end: the longest context so far, the last rotary base.

    Args:
        job: What was trained.
        step: Counted from 1; 0 is before the first.
    """
    plan, shards = job.plan, job.shards
    done = plan.phases[: plan.at(max(step, 1)).phase + 1] if step is not None else plan.phases
    seq_length = max(phase.seq_length for phase in done)
    model = job.model.model_copy(update={"seq_length": seq_length, "rotary_base": done[-1].rotary_base})
    tokens = {
        "bos_token_id": shards.end_of_document,
        "eos_token_id": shards.end_of_document,
        "pad_token_id": shards.pad,
    }
    return Described(model, shards.vocab_size, tokens, Path(shards.tokenizer).parent, seq_length)


def of_checkpoint(path: Path) -> Described:
    """Return the model of a checkpoint that was converted, or that belongs to a run.

    Raises:
        UserError: Nothing says what its model is.
    """
    if (path / NAME).exists():
        return _converted(path)
    for folder in path.resolve().parents[:2]:
        if (folder / "run.json").exists():
            return _of_run_folder(path, folder)
    raise UserError(
        f"nothing says which model '{path}' holds: there is no {NAME} in it, as in a converted checkpoint, and no "
        "run.json above it, as above a run's checkpoints"
    )


def _converted(path: Path) -> Described:
    try:
        values = read_json(path / NAME)
        model = ModelSettings.model_validate(values["model"])
        tokenizer = path / TOKENIZER
        return Described(model, values["vocab_size"], values["config"], tokenizer if tokenizer.exists() else None)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path / NAME}' is damaged ({error}); convert again") from None


def _of_run_folder(path: Path, folder: Path) -> Described:
    """Return the model of a run's checkpoint; the run's tokenizer was named from the folder that it was started in."""
    job = Job.model_validate(read_json(folder / "run.json")["settings"])
    step = int(path.name.removeprefix("step-")) if path.name.startswith("step-") else None
    described = of_run(job, step)
    assert described.tokenizer
    return replace(described, tokenizer=folder.parents[1] / described.tokenizer)
