"""Write a model as GGUF for llama.cpp and Ollama: `python -m model.gguf out/export/model FILE.gguf --type Q8_0`.

Reads a folder of `transformers` (or the export stage's, which has one as `model/`). Writes FILE.gguf and, beside it, a
`Modelfile` for `ollama create NAME -f Modelfile`. An existing file is replaced.
"""

import argparse
import sys
from pathlib import Path

from model.gguf.quantization import KQUANTS, TYPES, check
from stages.runner import run


def main() -> None:
    """Write both files."""
    options = _options()
    check(options.type)
    from model.gguf import modelfile, writer  # after what is said at once

    identity = writer.Identity(options.name or options.file.stem, options.license, options.source_url)
    remarks = writer.write(options.folder, options.file, options.type, identity)
    beside = modelfile.write(options.file)
    sys.stdout.writelines(f"gguf: {remark}\n" for remark in remarks)
    sys.stdout.write(f"gguf: {options.file} ({options.file.stat().st_size:,} bytes) and {beside}\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.gguf", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="config.json, model*.safetensors and tokenizer.json")
    parser.add_argument("file", type=Path, help="the GGUF file")
    parser.add_argument("--type", default="Q8_0", metavar="TYPE", help=f"one of {', '.join([*TYPES, *KQUANTS])}")
    parser.add_argument("--name", help="name of the model; that of the file otherwise")
    parser.add_argument("--license", help="SPDX identifier of its licence")
    parser.add_argument("--source-url", help="where it is from")
    return parser.parse_args()


if __name__ == "__main__":
    run("gguf", main)
