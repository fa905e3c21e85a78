"""Keeps the sources that an attempt at a snapshot took, for the next one if this one fails.

Each source is taken into a folder of its own that is whole or absent, `out/snapshot.sources/<source>-<key>`. The key
is a digest of all that decides its bytes, so that it is used again only for the same. That needs a source that is
pinned: one that is not, such as installed packages without a sha256, is taken anew.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from stages.corpus.sources import FilesSource, InstalledSource, Source
from stages.corpus.take import DOWNLOADS, Taken, take
from stages.files import OUT, read_json, whole, write_json

KEPT = OUT / "snapshot.sources"
_CODE = Path(__file__).parents[1]
_TAKEN = "taken.json"


def take_or_keep(name: str, source: Source, allowed: frozenset[str], shard_bytes: int, folder: Path) -> Taken:
    """Do as `stages.corpus.take.take`, or use what an earlier attempt took of the same source.

    Raises:
        UserError: The source cannot be read, is empty, or is not the pinned one.
    """
    if isinstance(source, InstalledSource | FilesSource) and source.sha256 is None:
        return take(name, source, allowed, shard_bytes, folder)
    kept = KEPT / f"{name}-{_key(source, allowed, shard_bytes)}"
    if not kept.exists():
        _forget(name)
        with whole(kept) as partial:
            taken = take(name, source, allowed, shard_bytes, partial / folder.name)
            write_json(partial / _TAKEN, asdict(taken))
    shutil.copytree(kept, folder.parent, copy_function=_link, dirs_exist_ok=True, ignore=shutil.ignore_patterns(_TAKEN))
    return Taken(**read_json(kept / _TAKEN))


def forget_all() -> None:
    """Remove what is kept: the snapshot is whole."""
    for folder in (KEPT, DOWNLOADS):
        shutil.rmtree(folder, ignore_errors=True)


def _key(source: Source, allowed: frozenset[str], shard_bytes: int) -> str:
    """Return 64 bits of SHA-256 over the settings, and the code and libraries that read sources."""
    hasher = hashlib.sha256(json.dumps([source.model_dump(mode="json"), sorted(allowed), shard_bytes]).encode())
    code = [path for package in ("corpus", "formats") for path in sorted((_CODE / package).rglob("*.py"))]
    for path in (*code, _CODE.parent / "requirements.lock"):
        hasher.update(path.read_bytes())
    return hasher.hexdigest()[:16]


def _forget(name: str) -> None:
    for stale in KEPT.glob(f"{name}-*"):
        shutil.rmtree(stale)


def _link(source: str, target: str) -> None:
    """Give a file a second name, or a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
