"""Convert weights, either way, without a run: `python -m model.convert to-megatron HF_FOLDER CHECKPOINT`.

And `python -m model.convert to-transformers CHECKPOINT HF_FOLDER`. A checkpoint is a folder in Megatron-Core's sharded
format, for any layout; one that was converted also holds `model.json` and the tokenizer, and a run's own checkpoint is
described by the `run.json` above it. Every tensor keeps its type unless another is asked for, so that there and back
is the same model, bit for bit. `--dry-run` makes every check that needs no writing, and says what would be written.
"""

import argparse
import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from stages.errors import UserError
from stages.files import whole
from stages.runner import run

if TYPE_CHECKING:
    from model.convert.described import Described
    from model.convert.from_transformers import Import
    from model.convert.to_transformers import Export

_SIZE = re.compile(r"(\d+)([KMGT]?)B?", re.IGNORECASE)
_FACTOR = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def main() -> None:
    """Convert as the command line says."""
    arguments = _parser().parse_args()
    if arguments.target.exists():
        raise UserError(f"'{arguments.target}' is there already; choose another name, or delete it")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.checkpoint")
    from model.convert import unsplit  # seconds of imports, after the arguments

    with unsplit.process(arguments.threads):
        arguments.convert(arguments)


def _to_megatron(arguments: argparse.Namespace) -> None:
    from model.convert import described
    from model.convert.from_transformers import Import
    from model.convert.to_transformers import DTYPES

    source = described.of_folder(arguments.source)
    weights = Import(arguments.source, source.model, source.vocab_size, DTYPES.get(arguments.dtype))
    _begin(arguments, source, weights, [arguments.target.name])
    with _progress(weights.nbytes) as bar:
        if arguments.dry_run:
            weights.check(bar.update)
        else:
            weights.write(arguments.target, source.documents(), bar.update)


def _to_transformers(arguments: argparse.Namespace) -> None:
    from model.convert import described
    from model.convert.to_transformers import DTYPES, Export

    source = described.of_checkpoint(arguments.source)
    source.check_tokens(arguments.source)
    dtype = DTYPES.get(arguments.dtype)
    weights = Export(arguments.source, source.model, source.vocab_size, dtype, arguments.shard_size)
    _begin(arguments, source, weights, list(weights.files))
    with _progress(weights.nbytes) as bar:
        if arguments.dry_run:
            weights.check(bar.update)
            return
        with whole(arguments.target) as folder:
            source.write(weights, folder, bar.update)


def _begin(arguments: argparse.Namespace, source: "Described", weights: "Export | Import", files: list[str]) -> None:
    """Say what is converted to what, and see whether there is space for it."""
    shown = f"{files[0]} to {files[-1]}" if len(files) > 1 else files[0]
    settings = source.model.model_dump_json(exclude={"family"}, exclude_none=True)
    lines = [
        f"{source.model.architecture}, family {source.model.family}, {source.vocab_size:,} ids: {settings}",
        f"{weights.num_parameters:,} parameters in {len(weights.tensors):,} tensors of `transformers`",
        f"'{arguments.target}': {weights.written:,} bytes in {len(files)} file{'s'[: len(files) > 1]}, {shown}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    above = next(folder for folder in arguments.target.absolute().parents if folder.exists())
    free = shutil.disk_usage(above).free
    if free < weights.written:
        raise UserError(f"'{above}' has {free:,} bytes free, and {weights.written:,} are to be written; free some")


def _progress(nbytes: int) -> "tqdm[Any]":
    return tqdm(total=nbytes, unit="B", unit_scale=True)


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser("python -m model.convert", description=__doc__.partition("\n")[0])
    ways = parser.add_subparsers(required=True)
    _way(ways, "to-megatron", _to_megatron, "a `transformers` folder", "the checkpoint to make")
    back = _way(ways, "to-transformers", _to_transformers, "a checkpoint", "the `transformers` folder to make")
    back.add_argument("--shard-size", type=_size, default="5GB", help="largest file, such as 500MB (5GB)")
    return parser


def _way(
    ways: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, convert: object, source: str, target: str
) -> argparse.ArgumentParser:
    way = ways.add_parser(name)
    way.set_defaults(convert=convert)
    way.add_argument("source", type=Path, help=source)
    way.add_argument("target", type=Path, help=target)
    way.add_argument("--dtype", choices=["float32", "bfloat16"], help="type of the weights (the one they have)")
    way.add_argument("--dry-run", action="store_true", help="check, say what would be written, and write nothing")
    way.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    return way


def _size(text: str) -> int:
    """Return a size in bytes, of which 5GB is one spelling."""
    match = _SIZE.fullmatch(text.strip())
    size = int(match[1]) * _FACTOR[match[2].upper()] if match else 0
    if not size:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write one such as 500MB or 5GB")
    return size


if __name__ == "__main__":
    run("convert", main)
