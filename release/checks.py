"""What `release.verify` recomputes, one function a subject: each yields what differs and nothing when all agrees."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

from release import card, facts, layout, lock, sums
from release.data import unadmitted
from stages.corpus.licenses import allow_list, refusal, stated
from stages.files import read_json, sha256_file
from stages.settings import read_yaml


def files(root: Path) -> Iterator[str]:
    """Every file is listed in SHA256SUMS with its digest; nothing else is there, .gitattributes of the Hub excepted."""
    yield from sums.differences(root, sums.ADDED_BY_THE_HUB)


def model_card(root: Path) -> Iterator[str]:
    """README.md is what the other files say, byte for byte."""
    written = (root / layout.CARD).read_text(encoding="utf-8").splitlines(keepends=True)
    expected = card.render(root).splitlines(keepends=True)
    for number in range(max(len(written), len(expected))):
        left = written[number] if number < len(written) else ""
        right = expected[number] if number < len(expected) else ""
        if left != right:
            yield f"{layout.CARD} line {number + 1}: has {left!r}, the run's files give {right!r}"


def weights(root: Path) -> Iterator[str]:
    """The weights open as safetensors, have the training's number of parameters, and are those compared with it."""
    stated_count = read_json(root / "training" / "metrics.json")["parameters"]
    count = 0
    for path in sorted(root.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    if count != stated_count:
        yield f"*.safetensors hold {count} parameters, training/metrics.json says {stated_count}"
    parity = read_json(root / "training" / "parity.json")
    for name, expected in sorted(parity["weights_sha256"].items()):
        if (actual := sha256_file(root / name)) != expected:
            yield f"{name}: sha256 is {actual}, training/parity.json compared {expected}"
    for name, limit in parity["limits"].items():
        if not parity[name] <= limit:
            yield f"training/parity.json: {name} is {parity[name]}, over its limit {limit}"


def graph_record(root: Path) -> Iterator[str]:
    """code/dvc.lock has the digests of the outputs that are here, and the parameters of code/params.yaml."""
    record = read_yaml(root / "code" / "dvc.lock")
    stated_outs = {path: md5 for _, path, md5 in lock.entries(record, "outs")}
    for path, here in layout.copied_outs(root):
        actual = lock.md5_directory(here) if isinstance(here, dict) else lock.md5_file(here)
        if stated_outs.get(path) != actual:
            yield f"code/dvc.lock: '{path}' is {stated_outs.get(path, 'not there')}, what is here is {actual}"
    params = read_yaml(root / "code" / "params.yaml")
    for stage, name, value in lock.parameters(record):
        if (here := _lookup(params, name)) != value:
            yield f"code/dvc.lock: stage '{stage}' ran with {name} = {value!r}, code/params.yaml has {here!r}"


def data(root: Path) -> Iterator[str]:
    """Every training document is of a source and license that the manifest names and params.yaml allows."""
    known = facts.read(root)
    licenses = known.params["snapshot"]["licenses"]
    allowed = allow_list(licenses["allow"], licenses.get("deny", ()), licenses.get("deny_flags", ()))
    if (actual := sha256_file(root / "tokenizer.json")) != (expected := known.shards["tokenizer"]["sha256"]):
        yield f"tokenizer.json: sha256 is {actual}, the shards were made with {expected}"
    identifiers = Counter[str]()
    for split, domains in sorted(known.shards["splits"].items()):
        rows = list(facts.documents(root / layout.SIDECARS / split))
        identifiers.update(row["id"] for _, row in rows)
        yield from _provenance(split, rows, known, allowed)
        yield from _totals(root, split, rows, domains)
        kept = known.curation["kept"].get(split, {"documents": 0})["documents"]
        if kept != len(rows):
            yield f"data/documents/{split}: {len(rows)} documents, data/curation.json kept {kept}"
    if repeated := sorted(identifier for identifier, count in identifiers.items() if count > 1):
        yield f"data/documents: {len(repeated)} documents more than once, the first is {repeated[0]}"


def tokens(root: Path) -> Iterator[str]:
    """data/tokens.json has the documents, bytes and tokens of each split as the documents' records add up."""
    stated_counts = read_json(root / "data" / "tokens.json")["kept"]
    for split in sorted(stated_counts.keys() | {path.name for path in (root / layout.SIDECARS).iterdir()}):
        found: dict[str, dict[str, Counter[str]]] = {"domain": {}, "source": {}, "license": {}}
        for domain, row in facts.documents(root / layout.SIDECARS / split):
            for group, value in {"domain": domain, "source": row["source"], "license": row["license"]}.items():
                count = {"documents": 1, "bytes": row["bytes"], "tokens": row["tokens"]}
                found[group].setdefault(value, Counter()).update(count)
        for group, counts in found.items():
            if stated_counts.get(split, {"by": {}})["by"].get(group) != counts:
                yield f"data/tokens.json: {split} by {group} is not what data/documents/{split} adds up to"
        total = sum(found["domain"].values(), Counter())
        if any(stated_counts.get(split, {}).get(name) != total[name] for name in ("documents", "bytes", "tokens")):
            yield f"data/tokens.json: {split} has other totals than data/documents/{split}"


def admissions(root: Path) -> Iterator[str]:
    """The release admits to all that licenses of its documents ask or forbid beyond naming the authors."""
    known = facts.read(root)
    for line in unadmitted(known.asked, known.params["release"].get("admits", ())):
        yield f"code/params.yaml: release.admits does not name {line}"


def _provenance(
    split: str, rows: list[tuple[str, facts.Record]], known: facts.Facts, allowed: frozenset[str]
) -> Iterator[str]:
    groups = Counter((domain, row["source"], row["license"]) for domain, row in rows)
    for (domain, source, expression), count in sorted(groups.items()):
        where = f"data/documents/{split}: {count} documents of source '{source}', license '{expression}'"
        if source not in known.sources or known.sources[source]["settings"]["domain"] != domain:
            yield f"{where}: data/manifest.json has no such source of domain '{domain}'"
        elif _taken(known.sources[source], expression) < count:
            yield f"{where}: data/manifest.json has fewer"
        if reason := refusal(stated(expression), allowed):
            yield f"{where}: {reason} by code/params.yaml"


def _taken(source: facts.Record, expression: str) -> float:
    """Return how many documents of a license the snapshot took: any number where it took them by reference."""
    if source["settings"].get("by_reference", False):
        return math.inf
    taken: int = source["licenses"].get(expression, {"documents": 0})["documents"]
    return taken


def _totals(root: Path, split: str, rows: list[tuple[str, facts.Record]], domains: facts.Record) -> Iterator[str]:
    for domain, entry in sorted(domains.items()):
        of_domain = [row for name, row in rows if name == domain]
        found = {
            "documents": len(of_domain),
            "tokens": sum(row["tokens"] for row in of_domain),
            "bytes": sum(row["bytes"] for row in of_domain),
        }
        for name, value in found.items():
            if entry[name] != value:
                yield f"data/documents/{split}/{domain}.parquet: {value} {name}, data/shards.json says {entry[name]}"
        actual = sha256_file(root / layout.SIDECARS / split / f"{domain}.parquet")
        expected = entry["files"].get(f"{domain}.parquet", actual)
        if expected != actual:
            yield f"data/documents/{split}/{domain}.parquet: sha256 is {actual}, data/shards.json says {expected}"


def _lookup(params: Any, name: str) -> Any:
    for part in name.split("."):
        params = params.get(part) if isinstance(params, dict) else None
    return params
