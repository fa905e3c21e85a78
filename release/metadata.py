"""The card's front matter: metadata as the Hub reads it.

Fields: https://huggingface.co/docs/hub/model-cards; `model-index` follows the Papers with Code schema given there.
"""

import io
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML

from release.facts import Facts, Record

# SPDX identifier -> the Hub's, from https://huggingface.co/docs/hub/repositories-licenses.
HUB_LICENSES = {
    "Apache-2.0": "apache-2.0",
    "BSD-2-Clause": "bsd-2-clause",
    "BSD-3-Clause": "bsd-3-clause",
    "CC-BY-4.0": "cc-by-4.0",
    "CC-BY-SA-4.0": "cc-by-sa-4.0",
    "CC0-1.0": "cc0-1.0",
    "ISC": "isc",
    "MIT": "mit",
    "MPL-2.0": "mpl-2.0",
    "ODC-By-1.0": "odc-by",
    "Unlicense": "unlicense",
}


def front_matter(facts: Facts) -> str:
    """Return the YAML between the card's `---` lines."""
    release = facts.params["release"]
    metadata = {
        **_license(release["license"]),
        "language": list(release["languages"]),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": list(release["tags"]),
        "model-index": [{"name": release["name"], "results": list(_results(facts))}],
    }
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 1000
    text = io.StringIO()
    yaml.dump(metadata, text)
    return text.getvalue()


def _license(spdx: str) -> dict[str, str]:
    if spdx in HUB_LICENSES:
        return {"license": HUB_LICENSES[spdx]}
    return {"license": "other", "license_name": spdx.lower(), "license_link": "LICENSE"}


def _results(facts: Facts) -> Iterator[Record]:
    for domain, part in sorted(facts.results["bits_per_byte"].items()):
        yield _result(domain, "text-generation", [_metric("bits_per_byte", "bits per byte", part["model"])])
    for domain, part in sorted(facts.results["continuation"].items()):
        metrics = [
            _metric("accuracy", "accuracy of continuation", part["accuracy"]),
            _metric("accuracy_norm", "accuracy of continuation, by likelihood per character", part["accuracy_norm"]),
        ]
        yield _result(domain, "multiple-choice", metrics)


def _result(domain: str, task: str, metrics: list[Record]) -> Record:
    dataset = {"name": f"held-out test split, domain {domain}", "type": f"openbase-test-{domain}", "split": "test"}
    return {"task": {"type": task}, "dataset": dataset, "metrics": metrics}


def _metric(kind: str, name: str, estimate: dict[str, Any]) -> Record:
    return {"type": kind, "name": f"{name} (standard error {estimate['stderr']:.4f})", "value": estimate["value"]}
