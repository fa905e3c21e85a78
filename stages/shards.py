"""Tokenise the splits to Megatron's indexed datasets: `python -m stages.shards`.

Reads out/curate/documents/, out/curate/trail/, out/curate/report.json and out/tokenizer/tokenizer/. Writes to
out/shards/:

- tokens/{train,validation,test}/<domain>.{bin,idx}: token ids, each document followed by the end-of-document id
- tokens/{train,validation,test}/<domain>.parquet: which document is where (`stages.corpus.tokenise.SIDECAR`)
- index.json: the tokenizer's digest, size, end-of-document id and padding id; documents, tokens, bytes and files
  by split and domain. Tokens include the ends of documents.
- funnel.json: tokens kept by split and source, domain, license and language, and the funnel of curation in tokens:
  measured for what is kept, estimated for what was dropped (`stages.corpus.token_funnel`)
- metrics.json: tokens by split and domain
- plots/: tokens that left each step of curation

While it works, scratch/ holds the tokens of finished files; a run that was killed goes on from them.
"""

from pathlib import Path
from typing import Any

from stages.curation.engine import Engine
from stages.errors import UserError
from stages.files import OUT, output, read_json, require, sha256_file, write_json
from stages.runner import run
from stages.settings import Settings, load

SPLITS = ("train", "validation", "test")


class ShardsSettings(Settings):
    """Section `shards` of params.yaml."""

    engine: Engine
    """Who does the work; the result does not depend on it."""


def main() -> None:
    """Tokenise every split and domain."""
    settings = load("shards", ShardsSettings)
    from stages.corpus.documents import shard_paths
    from stages.corpus.tokenise import write_shards
    from stages.curation.engine import started

    curated = OUT / "curate" / "documents"
    documents = {split: _by_domain(shard_paths(curated / split, "curate")) for split in SPLITS}
    _check_domains(documents)
    path = require(OUT / "tokenizer" / "tokenizer" / "tokenizer.json", "tokenizer")
    with output("shards") as folder:
        files = {
            folder / "tokens" / split / domain: documents[split][domain]
            for split in SPLITS
            for domain in documents[split]
        }
        with started(settings.engine) as workers:
            entries = write_shards(files, path, workers, OUT / "shards" / "scratch")
        splits = {
            split: {domain: entries[folder / "tokens" / split / domain] for domain in documents[split]}
            for split in SPLITS
        }
        write_json(folder / "index.json", {"tokenizer": _described(path), "splits": splits})
        write_json(folder / "metrics.json", {"tokens": _tokens(splits)})
        _write_funnel(folder)
    print(f"shards: {sum(sum(domains.values()) for domains in _tokens(splits).values()):,} tokens")


def _described(path: Path) -> dict[str, Any]:
    """Return the tokenizer's entry in index.json."""
    from stages.corpus import bpe

    tokenizer = bpe.load(path)
    return {
        "sha256": sha256_file(path),
        "vocab_size": tokenizer.get_vocab_size(),
        "end_of_document": tokenizer.token_to_id(bpe.END_OF_DOCUMENT),
        "pad": tokenizer.token_to_id(bpe.PADDING),
    }


def _write_funnel(folder: Path) -> None:
    from stages.corpus.documents import shard_paths
    from stages.corpus.token_fates import fates
    from stages.corpus.token_funnel import plotted, token_funnel

    sidecars = {(path.parent.name, path.stem): path for path in (folder / "tokens").glob("*/*.parquet")}
    trail = shard_paths(OUT / "curate" / "trail", "curate")
    report = read_json(require(OUT / "curate" / "report.json", "curate"))
    found = token_funnel(fates(trail, sidecars), report["funnel"])
    write_json(folder / "funnel.json", found)
    write_json(folder / "plots" / "tokens_by_step.json", plotted(found))


def _by_domain(paths: list[Path]) -> dict[str, list[Path]]:
    """Group `<domain>-<number>.parquet` by domain."""
    domains: dict[str, list[Path]] = {}
    for path in paths:
        domains.setdefault(path.stem.rsplit("-", 1)[0], []).append(path)
    return domains


def _check_domains(documents: dict[str, dict[str, list[Path]]]) -> None:
    """Check that every domain is in every split, so that what is trained can be validated and tested."""
    for domain in sorted(set().union(*documents.values())):
        for split in SPLITS:
            if domain not in documents[split]:
                remedy = (
                    "Lower curate.split.validation and curate.split.test"
                    if split == "train"
                    else f"Raise curate.split.{split}"
                )
                raise UserError(f"Domain '{domain}' has no document in split '{split}'. {remedy}, or add sources.")


def _tokens(splits: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, int]]:
    return {split: {domain: entry["tokens"] for domain, entry in domains.items()} for split, domains in splits.items()}


if __name__ == "__main__":
    run(__file__, main)
