"""dvc.lock in a release: the graph's record of what it ran, and its digests recomputed by DVC's own rules.

DVC 3's rules: a file is the md5 of its bytes (dvc-data `hashfile/hash.py`, algorithm "md5"); a directory is
the md5, with ".dir" appended, of the JSON list of {"md5", "relpath"} of its files in order of relpath
(dvc-data `hashfile/tree.py`, `Tree.as_bytes`).
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.settings import read_yaml

AFTER_THE_RELEASE = frozenset({"release", "publish"})


def of_the_release(lock: Path) -> bytes:
    """Return dvc.lock without the stages that run after its copy was made, stages in order of name."""
    content = read_yaml(lock)
    stages = content["stages"]
    content["stages"] = {name: stages[name] for name in sorted(stages) if name not in AFTER_THE_RELEASE}
    yaml = YAML()
    yaml.default_flow_style = False
    text = io.BytesIO()
    yaml.dump(content, text)
    return text.getvalue()


def entries(lock: dict[str, Any], kind: str) -> Iterator[tuple[str, str, str]]:
    """Yield (stage, path, md5) of all `deps` or `outs` of a parsed dvc.lock that carry an md5."""
    for stage, record in sorted(lock["stages"].items()):
        for entry in record.get(kind, []):
            if "md5" in entry:
                yield stage, entry["path"], entry["md5"]


def parameters(lock: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield (stage, dotted name, value) of all parameters of params.yaml that a parsed dvc.lock records."""
    for stage, record in sorted(lock["stages"].items()):
        for name, value in record.get("params", {}).get("params.yaml", {}).items():
            yield stage, name, value


def md5_file(path: Path) -> str:
    """Return the md5 by which DVC names a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def md5_directory(files: Mapping[str, Path]) -> str:
    """Return the md5 by which DVC names a directory that holds `files`, {relative path: where it lies}."""
    listing = [{"md5": md5_file(files[relative]), "relpath": relative} for relative in sorted(files)]
    text = json.dumps(listing, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"
