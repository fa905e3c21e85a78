"""Takes a source into a snapshot: reads it, puts each text through the license gate, writes, counts, digests."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.corpus import files, installed, references
from stages.corpus.candidates import Reading
from stages.corpus.documents import ShardWriter
from stages.corpus.gate import Record, admit
from stages.corpus.licenses import stated
from stages.corpus.progress import bar
from stages.corpus.sources import FilesSource, InstalledSource, Source
from stages.corpus.stores import reading
from stages.errors import UserError
from stages.files import OUT, jsonl_writer

DOWNLOADS = OUT / "snapshot.downloads"
# A new kind of source is a settings class in stages.corpus.sources and its reader here, or its store in
# stages.corpus.references.
READERS: dict[str, Callable[[Any], Reading]] = {"files": files.read, "installed": installed.read}


@dataclass
class Taken:
    """What came of one source.

    Attributes:
        name: The source's name.
        manifest: Its entry in manifest.json.
    """

    name: str
    manifest: dict[str, Any]


def take(name: str, source: Source, allowed: frozenset[str], shard_bytes: int, folder: Path) -> Taken:
    """Write the admitted documents of a source to `folder` and return what came of it.

    The refused are listed beside `folder`, in refused/<name>.jsonl. A source by reference has no documents here: its
    files are listed in references/<name>.jsonl, as are those of a source that was downloaded. What is downloaded stays
    until the source is whole.

    Raises:
        UserError: The source cannot be read, is empty, or is not the pinned one.
    """
    _check_license(name, source)
    downloads = DOWNLOADS / name
    with _named(name):
        opened = _open(source, downloads)
        with (
            jsonl_writer(folder.parent / "refused" / f"{name}.jsonl") as refuse,
            ShardWriter(folder, name, shard_bytes) as writer,
        ):
            record = Record(refuse)
            documents = admit(name, source, opened.candidates, allowed, shard_bytes, record)
            for document in bar(documents, desc=name, unit=" documents"):
                writer.add(document)
    named = opened.references
    digest = references.digest(named) if _by_reference(source) else record.digest.hexdigest()
    _check_whole(name, source, not (named or record.admitted.groups() or record.reasons.groups()), digest)
    if named:
        references.write(folder.parent / "references" / f"{name}.jsonl", named)
    manifest = {
        "settings": source.public(),
        "versions": opened.versions,
        "sha256": digest,
        **record.admitted.total(),
        "licenses": record.admitted.by_group(),
        "license_flags": record.flags.by_group(),
        "encodings": record.encodings.by_group(),
        "refused": record.reasons.by_group(),
        "files": writer.files(),
        **_of_references(opened),
    }
    shutil.rmtree(downloads, ignore_errors=True)
    return Taken(name, manifest)


def _open(source: Source, downloads: Path) -> Reading:
    if isinstance(source, InstalledSource) or (isinstance(source, FilesSource) and not source.by_reference):
        return READERS[source.kind](source)
    store = references.store(source, downloads)
    if not _by_reference(source):
        return reading(store, source)
    listed = store.listing()
    return Reading(listed.versions, iter(()), listed.files, listed.skipped)


def _by_reference(source: Source) -> bool:
    return not isinstance(source, InstalledSource) and source.by_reference


def _of_references(opened: Reading) -> dict[str, Any]:
    """Return what the manifest says of the files that the source names, and of those that it does not read."""
    sizes = [file.size or 0 for file in opened.references]
    referred = {"references": {"files": len(sizes), "bytes": sum(sizes)}} if sizes else {}
    return {**referred, **({"skipped": dict(opened.skipped)} if opened.skipped else {})}


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Let an error say which source it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"Source '{name}': {error}") from error.__cause__


def _check_license(name: str, source: Source) -> None:
    if source.license not in (None, "metadata") and stated(source.license).problem:
        raise UserError(
            f"snapshot.sources.{name}.license = '{source.license}' is not an SPDX expression. "
            "Take its identifiers from https://spdx.org/licenses."
        )


def _check_whole(name: str, source: Source, empty: bool, digest: str) -> None:
    key = f"snapshot.sources.{name}"
    if empty:
        raise UserError(f"{key} is empty: nothing matches its `include` and `exclude`. Correct them.")
    if source.sha256 is None and source.kind == "files":
        raise UserError(f"{key} has no sha256, and files are pinned by it. The files as they are now: sha256: {digest}")
    if source.sha256 not in (None, digest):
        raise UserError(
            f"{key}.sha256 is '{source.sha256}' but the source is now '{digest}'. "
            "Bring the pinned source back, or pin the new digest."
        )
