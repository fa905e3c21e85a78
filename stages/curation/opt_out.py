"""Opt-outs as a step: what a list, or a site's robots.txt, asks to leave out is dropped, whenever the list is given.

The reason is `opt_out:<name>` of the first list in params.yaml that has the document; its tags name all that do. So
the report counts what each list removed, and the store of verdicts has every document of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from stages.corpus.sources import Name, Sha256
from stages.curation.step import KEEP, Step, Verdict
from stages.settings import Settings

if TYPE_CHECKING:  # its Parquet library takes too long to import for a check of params.yaml
    from stages.corpus.documents import Document
    from stages.corpus.opt_outs import Match

REASON = "opt_out"


class OptOutList(Settings):
    """A file of opt-outs."""

    path: str
    """The file."""
    sha256: Sha256
    """Its digest: another list is another run of `curate`."""
    kind: Literal["ids", "urls", "domains", "authors", "robots"]
    """What its entries are, as in stages.corpus.opt_outs."""
    user_agents: tuple[str, ...] = ()
    """Names of crawlers, for `robots`: a page that one of them may not fetch is left out."""

    @model_validator(mode="after")
    def _agents_are_for_robots(self) -> "OptOutList":
        if (self.kind == "robots") != bool(self.user_agents):
            raise ValueError("kind = robots needs `user_agents`, and no other kind has them")
        return self

    def match(self, key: str) -> "Match":
        """Return whether a document is on the list.

        Raises:
            UserError: The file is not the pinned one, or is no such list; the message names `key`.
        """
        from stages.corpus import opt_outs

        path = Path(self.path)
        opt_outs.check_pin(path, self.sha256, key)
        if self.kind == "robots":
            return opt_outs.forbidden(path, self.user_agents)
        return opt_outs.listed(path, self.kind)


class OptOut(Settings):
    """Drop what somebody asked to leave out."""

    step: Literal["opt_out"]
    """Picks this step."""
    lists: dict[Name, OptOutList] = Field(min_length=1)
    """The lists by name."""

    def build(self) -> Step:
        """Return the step; it reads the lists.

        Raises:
            UserError: A list is not the pinned one, or an entry in it is wrong.
        """
        matches = {name: each.match(f"opt_out.lists.{name}") for name, each in self.lists.items()}
        return lambda documents: [_judge(matches, document) for document in documents]


def _judge(matches: Mapping[str, "Match"], document: "Document") -> Verdict:
    tags = tuple(f"{REASON}:{name}" for name, match in matches.items() if match(document))
    return Verdict(tags[0], tags=tags) if tags else KEEP
