"""Take a pinned snapshot of real text: `python -m stages.snapshot`.

Reads the sources that params.yaml names in `snapshot`. Writes to out/snapshot/:

- documents/<source>-<00000>.parquet: the admitted documents (columns of `stages.corpus.documents.Document`)
- references/<source>.jsonl: for sources that are taken by reference, or from elsewhere, the path, size, digest, etag
  and revision of each file
- manifest.json: for each source its settings, exact versions, licenses and what they ask, counts, refusals, what was
  skipped, digest and shards.
  The digest is SHA-256 over a line `<sha256 of the text>  <license>  <origin>` for each text in order, whether
  it was admitted or not; `sha256` of a source in params.yaml pins it.
- refused.jsonl: every document that was kept out for its license, or for holding no text, with the reason
- metrics.json: documents and bytes, admitted and refused
"""

import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from stages.corpus.sources import Name, Source
from stages.files import output, write_json
from stages.runner import run
from stages.settings import Settings, load

LicenseFlag = Literal["copyleft", "share_alike", "non_commercial", "no_derivatives"]


class LicenseSettings(Settings):
    """Which documents are admitted."""

    allow: tuple[str, ...] | None = Field(min_length=1)
    """SPDX identifiers; a document's expression is evaluated against them. Null admits what is not denied."""
    deny: tuple[str, ...] = ()
    """SPDX identifiers that are refused, whatever is allowed."""
    deny_flags: tuple[LicenseFlag, ...] = ()
    """Kinds of licenses that are refused."""

    def allowed(self) -> frozenset[str]:
        """Return the licenses that are admitted.

        Raises:
            UserError: An entry is not an SPDX identifier.
        """
        from stages.corpus.licenses import allow_list

        return allow_list(self.allow, self.deny, self.deny_flags)


class SnapshotSettings(Settings):
    """Section `snapshot` of params.yaml."""

    shard_bytes: int = Field(gt=0)
    """Text in one Parquet shard at most, in UTF-8 bytes; a document cannot be longer."""
    licenses: LicenseSettings
    """The license gate."""
    sources: dict[Name, Source] = Field(min_length=1)
    """The sources by name; they are taken in name order."""


def main() -> None:
    """Take every source."""
    settings = load("snapshot", SnapshotSettings)
    from stages.corpus.resume import forget_all, take_or_keep

    allowed = settings.licenses.allowed()
    with output("snapshot") as folder:
        for part in ("documents", "references"):  # there without content too, as DVC asks of an output
            (folder / part).mkdir()
        taken = [
            take_or_keep(name, settings.sources[name], allowed, settings.shard_bytes, folder / "documents")
            for name in sorted(settings.sources)
        ]
        write_json(folder / "manifest.json", {"sources": {source.name: source.manifest for source in taken}})
        _join(folder / "refused", folder / "refused.jsonl")
        metrics = _metrics([source.manifest for source in taken])
        write_json(folder / "metrics.json", metrics)
    forget_all()
    print(f"snapshot: {metrics['documents']:,} documents, {metrics['bytes'] / 1e6:.1f} MB, ", end="")
    print(f"{metrics['refused_documents']:,} refused")


def _metrics(manifests: list[dict[str, Any]]) -> dict[str, int]:
    return {
        "documents": sum(source["documents"] for source in manifests),
        "bytes": sum(source["bytes"] for source in manifests),
        "refused_documents": sum(count["documents"] for source in manifests for count in source["refused"].values()),
    }


def _join(folder: Path, joined: Path) -> None:
    """Make one file of a folder's, in name order."""
    with joined.open("wb") as file:
        for path in sorted(folder.iterdir()):
            with path.open("rb") as part:
                shutil.copyfileobj(part, file)
    shutil.rmtree(folder)


if __name__ == "__main__":
    run(__file__, main)
