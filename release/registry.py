"""A registry of releases in a directory, content-addressed: `python -m release.registry REGISTRY NAME VERSION TARGET`.

    blobs/sha256/<first two>/<sha256>     every file once, whatever releases it is part of
    manifests/<release digest>            the release's SHA256SUMS; its own sha256 is its name
    refs/<name>/<version>                 the release digest

Every file is written beside its place, flushed to the disk and renamed; blobs come first, then the manifest,
then the ref. So what a killed publisher leaves is unused files, never half a release, and the next one goes on.
The command restores a release into TARGET, an empty or new directory.
"""

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from release import sums
from stages.errors import UserError
from stages.files import sha256_file


def publish(root: Path, registry: Path, name: str, version: str, move_version: bool = False) -> None:
    """Put the release at `root` into `registry` under `name` and `version`. Publishing it again changes nothing.

    Raises:
        UserError: The version names another release and `move_version` is false, or a file of the release
            changed while it was copied.
    """
    digest = sums.digest(root)
    with _locked(registry):
        ref = registry / "refs" / name / version
        _check_ref(ref, digest, move_version)
        for path, sha256 in sorted(sums.read(root).items()):
            _store(root / path, _blob(registry, sha256), sha256)
        _store(root / sums.SUMS, registry / "manifests" / digest, digest)
        _write(f"{digest}\n".encode(), ref)


def restore(registry: Path, name: str, version: str, target: Path) -> str:
    """Copy a release out of the registry into `target`; return its digest.

    Raises:
        UserError: There is no such release, `target` is not empty, or the registry is damaged.
    """
    ref = registry / "refs" / name / version
    if not ref.is_file():
        raise UserError(f"'{registry}' has no release '{name}' of version '{version}'.")
    if target.exists() and any(target.iterdir()):
        raise UserError(f"'{target}' is not empty. Name a new directory.")
    digest = ref.read_text(encoding="utf-8").strip()
    _copy(registry / "manifests" / digest, target / sums.SUMS, digest)
    for path, sha256 in sums.read(target).items():
        _copy(_blob(registry, sha256), target / path, sha256)
    return digest


def _check_ref(ref: Path, digest: str, move_version: bool) -> None:
    if not ref.exists() or move_version:
        return
    if (published := ref.read_text(encoding="utf-8").strip()) != digest:
        raise UserError(
            f"Version '{ref.name}' of '{ref.parent.name}' is published already, as {published}, and this release is "
            f"{digest}. Raise release.version, or set publish.local.move_version = true to move the version."
        )


def _blob(registry: Path, sha256: str) -> Path:
    return registry / "blobs" / "sha256" / sha256[:2] / sha256


def _store(source: Path, place: Path, sha256: str) -> None:
    """Copy `source` to its place unless the same bytes lie there already."""
    if place.is_file() and sha256_file(place) == sha256:
        return
    with _appearing(place) as temporary:
        shutil.copyfile(source, temporary)
        if sha256_file(temporary) != sha256:
            raise UserError(f"'{source}' changed while it was published. Run `dvc repro release`, then publish again.")


def _write(content: bytes, place: Path) -> None:
    if place.is_file() and place.read_bytes() == content:
        return
    with _appearing(place) as temporary:
        temporary.write_bytes(content)


def _copy(source: Path, place: Path, sha256: str) -> None:
    if not source.is_file() or sha256_file(source) != sha256:
        raise UserError(f"The registry is damaged: '{source}' is missing or changed. Publish the release again.")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, place)


@contextlib.contextmanager
def _appearing(place: Path) -> Iterator[Path]:
    """Yield a temporary path; its file appears at `place`, whole and on the disk, when the block ends well."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.partial")
    try:
        yield temporary
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush(temporary)
    temporary.replace(place)
    _flush(place.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(registry: Path) -> Iterator[None]:
    """Let one publisher at a time into the registry; the lock goes with its process, however that ends."""
    registry.mkdir(parents=True, exist_ok=True)
    with (registry / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: list[str]) -> None:
    """Restore a release: REGISTRY NAME VERSION TARGET."""
    if len(arguments) != 4:
        sys.exit("usage: python -m release.registry REGISTRY NAME VERSION TARGET")
    registry, name, version, target = arguments
    try:
        digest = restore(Path(registry), name, version, Path(target))
    except UserError as error:
        sys.exit(f"registry: {error}")
    sys.stdout.write(f"{name} {version}, release digest {digest}, restored to {target}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
