"""What is other in llama.cpp than in `transformers`, although the file is written right."""

from collections.abc import Iterator

from gguf import MODEL_ARCH

from model.gguf.architectures import ARCHITECTURES
from model.gguf.facts import context_length
from model.gguf.folder import Folder
from model.gguf.quantization import block_size
from stages.files import read_json


def remarks(folder: Folder, kind: str) -> Iterator[str]:
    """Yield what whoever runs a file of some type should know."""
    architecture = ARCHITECTURES[folder.architecture]
    whole, context = folder.config.max_position_embeddings, context_length(folder.config, architecture.arch)
    if context < whole:
        yield (
            f"llama.cpp's {architecture.arch.name.lower()} has no sliding window: the context length is {context}, the "
            f"window, instead of {whole}; beyond it every token would see more than it was trained to"
        )
    if architecture.arch == MODEL_ARCH.GPTNEOX:
        yield "llama.cpp computes GELU from a table in half precision: logits differ in the third decimal place"
    if folder.extra_layers:
        yield "the layers for multi-token prediction are left out; the next token does not depend on them"
    matrices = [entry.shape for entry in folder.entries.values() if len(entry.shape) > 1]
    if other := sum(shape[-1] % block_size(kind) != 0 for shape in matrices):
        yield (
            f"{other} of {len(matrices)} matrices have rows that blocks of {block_size(kind)} do not fill: they are in "
            "a larger type"
        )
    if read_json(folder.path / "tokenizer.json").get("normalizer") is not None:
        yield "llama.cpp does not normalise: a text that is not in Unicode's form NFC gets other ids"
