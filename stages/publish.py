"""Publish the release, to a directory or to the Hub: `python -m stages.publish`.

Reads out/release/. Writes to out/publish/:

- receipt.json: what was published where; the same for every publication of the same release
- registry/ (target `local`, unless publish.local.registry says otherwise): see `release.registry`. It is no output of
  the graph, so that releases published before stay in it.

Publishing the same release again changes nothing, and an interrupted publication is completed by the next one.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from stages.files import OUT, require, write_json
from stages.runner import run
from stages.settings import Settings, load, read_yaml

RELEASE = OUT / "release"
RECEIPT = OUT / "publish" / "receipt.json"


class LocalSettings(Settings):
    """Target `local`: a directory registry."""

    registry: str = Field(min_length=1)
    """Its directory; made if it is missing."""
    move_version: bool
    """Let an existing version name another release from now on; the earlier one stays under its digest."""


class HubSettings(Settings):
    """Target `hub`. The server is HF_ENDPOINT, the token comes from HF_TOKEN or `hf auth login`."""

    repo_id: str | None = Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
    """Model repository, `namespace/name`; made if it is missing."""
    revision: str = Field(min_length=1)
    """Branch that gets the release; made from `main` if it is missing."""
    tag: str | None
    """Tag of the release's commit; null is `v<version>`."""
    private: bool
    """Visibility of a new repository; an existing one must have it already."""
    xet: bool
    """Send large files by Xet. Off by default: huggingface_hub then sends them by LFS over plain HTTP, with timeouts
    and retries, and works with every server; Xet has no way back to LFS when a server or proxy lacks it."""
    timeout_seconds: int = Field(gt=0)
    """How long one request may go without an answer."""
    move_version: bool
    """Let an existing tag name another release from now on."""


class PublishSettings(Settings):
    """Section `publish` of params.yaml."""

    target: Literal["local", "hub"]
    """Where to."""
    secrets_reviewed: tuple[str, ...]
    """Files of the release in which something looks like a secret, and a person saw that it is none."""
    local: LocalSettings
    """Of target `local`."""
    hub: HubSettings
    """Of target `hub`."""

    @model_validator(mode="after")
    def _names_a_repository(self) -> "PublishSettings":
        if self.target == "hub" and self.hub.repo_id is None:
            raise ValueError('publish.target = "hub" needs publish.hub.repo_id = "namespace/name"; set it')
        return self


def main() -> None:
    """Publish."""
    settings = load("publish", PublishSettings)
    require(RELEASE, "release")
    identity = read_yaml(RELEASE / "code" / "params.yaml")["release"]
    name, version = identity["name"], identity["version"]
    where = _to_hub(settings, name, version) if settings.target == "hub" else _to_registry(settings, name, version)
    _write_receipt({"target": settings.target, "name": name, "version": version, **where})
    print(f"publish: {name} {version} is at {where.get('registry') or where['endpoint'] + '/' + where['repo_id']}")


def _to_registry(settings: PublishSettings, name: str, version: str) -> dict[str, Any]:
    from release import preflight, registry

    preflight.check(RELEASE, settings.secrets_reviewed)
    registry.publish(RELEASE, Path(settings.local.registry), name, version, settings.local.move_version)
    return {"registry": settings.local.registry, **_contents()}


def _to_hub(settings: PublishSettings, name: str, version: str) -> dict[str, Any]:
    from release import hub, preflight

    preflight.check(RELEASE, settings.secrets_reviewed, hub.own_tokens())
    values = settings.hub.model_dump() | {"tag": settings.hub.tag or f"v{version}"}
    destination = hub.Destination(**values)
    endpoint, commit = hub.publish(RELEASE, destination, f"{name} {version}")
    where = {"repo_id": destination.repo_id, "revision": destination.revision, "tag": destination.tag}
    return {"endpoint": endpoint, **where, "commit": commit, **_contents()}


def _contents() -> dict[str, Any]:
    from release import sums

    paths = [*sums.read(RELEASE), sums.SUMS]
    size = sum((RELEASE / path).stat().st_size for path in paths)
    return {"digest": sums.digest(RELEASE), "files": len(paths), "bytes": size}


def _write_receipt(receipt: dict[str, Any]) -> None:
    """Write the receipt whole or not at all; the registry beside it stays, so `stages.files.output` cannot."""
    partial = RECEIPT.with_suffix(".partial")
    write_json(partial, receipt)
    partial.replace(RECEIPT)


if __name__ == "__main__":
    run(__file__, main)
