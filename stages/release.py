"""Lay out what would be published, and verify it: `python -m stages.release`.

Reads the outputs of all stages before it, params.yaml, dvc.yaml, dvc.lock, requirements.lock, the license file and the
git repository. Writes to out/release/ (see `release.layout`):

- the weights, the tokenizer and the configuration, README.md (the model card) and LICENSE
- data/, evaluation/ and training/: the records of the run
- code/: parameters, graph, lock, and the source as it was run
- SHA256SUMS: every other file with its digest; its own SHA-256 is the release digest

The release appears only if every check of `release.verify` passes on it.
"""

import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from stages.errors import UserError
from stages.files import output
from stages.runner import run
from stages.settings import Settings, load

Admission = Literal["copyleft", "share_alike", "non_commercial", "no_derivatives", "repository_license"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class ReleaseSettings(Settings):
    """Section `release` of params.yaml."""

    name: str = Field(pattern=NAME, max_length=96)
    """Name of the model."""
    version: str = Field(pattern=NAME, max_length=96)
    """Version of the release; a published version never changes."""
    description: str = Field(min_length=1)
    """What the model is, in a sentence or two of Markdown."""
    organisation: str = Field(min_length=1)
    """Who makes the release."""
    contact: str = Field(min_length=1)
    """Where its users turn to: an address or URL."""
    repository: str | None
    """URL of the source repository, for the card."""
    license: str = Field(min_length=1)
    """License of the weights, an SPDX identifier."""
    license_file: str = Field(min_length=1)
    """File with its text; becomes LICENSE in the release."""
    admits: tuple[Admission, ...] = ()
    """What licenses of its documents ask or forbid and the release admits to, on its card; `repository_license` is
    that only a repository's license file states some of them. Anything else of the kind is refused."""
    languages: tuple[str, ...] = Field(min_length=1)
    """Languages of the training text, as ISO 639 codes."""
    tags: tuple[str, ...]
    """Tags on the Hub."""


def main() -> None:
    """Make the release."""
    settings = load("release", ReleaseSettings)
    from release import card, facts, layout, lock, source, sums, verify

    with output("release") as folder:
        layout.copy(folder)
        shutil.copyfile(layout.existing(Path(settings.license_file), "release.license_file"), folder / layout.LICENSE)
        (folder / "code" / "dvc.lock").write_bytes(lock.of_the_release(layout.existing(Path("dvc.lock"))))
        source.collect(folder / "code")
        _check_admissions(settings, facts.read(folder).asked)
        (folder / layout.CARD).write_text(card.render(folder), encoding="utf-8")
        digest = sums.write(folder)
        for name, check in verify.CHECKS.items():
            if found := verify.differences(folder, check):
                raise UserError(
                    f"The release does not verify ({name}): {'; '.join(found[:5])}. Run `dvc repro release`."
                )
        print(f"release: {settings.name} {settings.version}, {len(sums.read(folder))} files, digest {digest}")


def _check_admissions(settings: ReleaseSettings, asked: dict[str, dict[str, Any]]) -> None:
    from release import data

    if found := list(data.unadmitted(asked, settings.admits)):
        raise UserError(
            f"release.admits does not name what licenses of its documents ask: {'; '.join(found)}. Leave these "
            "documents out by snapshot.licenses or snapshot.sources, or name it: the card then says it."
        )


if __name__ == "__main__":
    run(__file__, main)
