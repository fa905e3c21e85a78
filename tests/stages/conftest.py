"""A small real corpus, 1 MB of the standard library and its language reference, for the tests of the data stages."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def params() -> dict[str, Any]:
    """Parameters of the data stages; a test changes what it is about before it runs a stage."""
    python = {"kind": "installed", "pin": {"python": "3.11"}, "license": "Python-2.0.1"}
    return {
        "snapshot": {
            "shard_bytes": 200_000,
            "licenses": {"allow": ["MIT", "Python-2.0.1"]},
            "sources": {
                "stdlib": {**python, "domain": "code", "include": ["/email/", "/json/", "/logging/"]},
                "reference": {**python, "domain": "prose", "text": "topics"},
            },
        },
        "curate": {
            "chains": {
                "code": {"steps": [{"step": "length", "min_characters": 100, "max_characters": 100_000}]},
                "prose": {"steps": []},
            },
            "duplicates": {
                "near": {"ngram": 5, "bands": 14, "rows": 8, "min_agreement": 0.7, "seed": 0},
                "survivor": "first",
            },
            "split": {"validation": 0.15, "test": 0.15, "seed": 0},
            "dropped_sample": 3,
            "engine": {"kind": "local", "workers": 1},
        },
        "tokenizer": {"vocab_size": 512, "train_fraction": 1.0, "path": None, "sha256": None, "workers": 2},
        "shards": {"engine": {"kind": "local", "workers": 1}},
    }


@pytest.fixture
def run_stages(params: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that runs stages by name, in an empty folder, with `params` as they are then."""
    monkeypatch.chdir(tmp_path)

    def run(*stages: str) -> None:
        Path("params.yaml").write_text(json.dumps(params))
        for stage in stages:
            importlib.import_module(f"stages.{stage}").main()

    return run
