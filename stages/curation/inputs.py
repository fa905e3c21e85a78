"""What curation reads: the documents of a snapshot in parts, each with the chain that they go through."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.curation.chain import Chain
from stages.curation.parts import AnyPart, Part
from stages.curation.referred import Referred, grouped
from stages.errors import UserError
from stages.files import require, sha256_file
from stages.snapshot import SnapshotSettings

STAGE = "snapshot"
Sources = Mapping[str, Any]
"""The sources of a snapshot's manifest by name."""


def chains_by_source(
    sources: Sources, by_domain: Mapping[str, Chain], by_source: Mapping[str, Chain]
) -> dict[str, Chain]:
    """Return the chain of each source: its own, or its domain's.

    Raises:
        UserError: A domain has no chain, or a source that has one is not in the snapshot.
    """
    if unknown := sorted(by_source.keys() - sources.keys()):
        raise UserError(f"curate.source_chains has {unknown}, which are no sources; known are {sorted(sources)}.")
    chains = {}
    for source in sorted(sources):
        domain = sources[source]["settings"]["domain"]
        chain = by_source.get(source) or by_domain.get(domain)
        if chain is None:
            raise UserError(
                f"curate.chains has no '{domain}', the domain of source '{source}'. "
                f"Add its chain; `{domain}: {{steps: []}}` keeps everything."
            )
        chains[source] = chain
    return chains


def parts(folder: Path, sources: Sources, chains: Mapping[str, Chain], settings: SnapshotSettings) -> list[AnyPart]:
    """Return the parts of a snapshot in the order of the sources' names and of the documents.

    Args:
        folder: The output of stage `snapshot`.
        sources: Its manifest's sources.
        chains: The chain of each.
        settings: How the snapshot was taken, for sources that it has taken by reference.

    Raises:
        UserError: A file of the snapshot is not the one of its manifest, or the settings are not those of then.
    """
    found: list[AnyPart] = []
    for name, manifest in sorted(sources.items()):
        found += _copied(folder, manifest, chains[name])
        if manifest["settings"].get("by_reference"):
            found += _referred(folder, name, manifest, chains[name], settings)
    return found


def _copied(folder: Path, manifest: Mapping[str, Any], chain: Chain) -> Iterator[Part]:
    """Yield the shards of a source."""
    for name, file in sorted(manifest["files"].items()):
        path = require(folder / "documents" / name, STAGE)
        if sha256_file(path) != file["sha256"]:
            raise UserError(f"'{path}' is not the file of the snapshot's manifest. Run `dvc repro snapshot`.")
        yield Part(path, file["sha256"], manifest["settings"]["domain"], chain)


def _referred(
    folder: Path, name: str, manifest: Mapping[str, Any], chain: Chain, settings: SnapshotSettings
) -> Iterator[Referred]:
    """Yield the files of a source that is taken by reference, in groups of the size of a shard."""
    from stages.corpus import references

    path = require(folder / "references" / f"{name}.jsonl", STAGE)
    listed = references.read(path)
    if references.digest(listed) != manifest["sha256"]:
        raise UserError(f"'{path}' is not the list of the snapshot's manifest. Run `dvc repro snapshot`.")
    source = settings.sources.get(name)
    if source is None or source.public() != manifest["settings"]:
        raise UserError(f"snapshot.sources.{name} is not what the snapshot was taken by. Run `dvc repro snapshot`.")
    assert isinstance(source, references.Referring)
    for group in grouped(source, listed, settings.shard_bytes):
        yield Referred(name, source, group, settings.licenses.allowed(), settings.shard_bytes, chain)
