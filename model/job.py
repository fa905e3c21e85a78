"""What one pretraining run is: settings and inputs by digest, and the fingerprint that names its scratch folder.

Imports no torch: the stage writes the job, the processes that torchrun starts read it.
"""

import hashlib
import json
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from pydantic import SerializeAsAny

from model.families.family import ModelSettings
from model.plan import Plan
from model.settings import PretrainSettings
from stages.settings import Settings

VERSIONS_THAT_MATTER = ("torch", "megatron-core", "numpy")
"""Packages whose code decides the trained bytes."""


class Shards(Settings):
    """The token shards a run trains on, as `out/shards/index.json` describes them."""

    digest: str
    """Hex SHA-256 of index.json, which holds the digest of every shard."""
    tokens: str
    """Folder of the shards."""
    tokenizer: str
    """Path of `tokenizer.json`."""
    tokenizer_sha256: str
    """Its hex SHA-256."""
    vocab_size: int
    """Its ids."""
    end_of_document: int
    """The id after each document."""
    pad: int
    """The padding id, in no document."""


class Job(Settings):
    """Everything that decides the bytes of a run."""

    model: SerializeAsAny[ModelSettings]
    """Shape."""
    pretrain: PretrainSettings
    """Training."""
    shards: Shards
    """Data."""
    versions: dict[str, str]
    """Code."""
    start_sha256: str | None = None
    """Digest of the folder that `pretrain.start` names."""

    @cached_property
    def plan(self) -> Plan:
        """What each step trains on."""
        return Plan(self.model, self.pretrain)

    def fingerprint(self) -> str:
        """Return the hex SHA-256 of the job: a checkpoint is taken up only by a run that would have written it."""
        # Not sorted: the order of the phases matters, and that of fields is the code's.
        return hashlib.sha256(json.dumps(self.model_dump(mode="json")).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the bytes."""
    return {name: version(name) for name in VERSIONS_THAT_MATTER}


def read_job(path: Path) -> Job:
    """Return the job that the stage wrote."""
    return Job.model_validate_json(path.read_text(encoding="utf-8"))
