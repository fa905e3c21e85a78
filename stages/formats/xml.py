"""XML that is read without trusting it: no entity of its own is expanded and nothing is fetched."""

from collections.abc import Iterator
from typing import Any, BinaryIO

from lxml import etree  # type: ignore[import-untyped]  # it ships no types

from stages.errors import UserError
from stages.formats.row import damaged


class Headed:
    """A stream that keeps its first bytes, which say its encoding.

    Attributes:
        head: At most `size` bytes from the beginning.
    """

    def __init__(self, stream: BinaryIO, size: int = 1024) -> None:
        """Read the head; `read` gives it out again."""
        self._stream, self.head = stream, stream.read(size)
        self._pending = self.head

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""
        given, self._pending = self._pending[:size], self._pending[size:]
        return given or self._stream.read(size)


def parse(data: bytes, name: str) -> Any:
    """Return the root element of a document.

    Raises:
        UserError: It is not well-formed, or declares entities.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise damaged(name, error) from None
    _check_entities(root.getroottree().docinfo, name)
    return root


def stream_elements(stream: Headed, name: str, tags: tuple[str, ...]) -> Iterator[Any]:
    """Yield the elements with these local names as they end, children of the root; each is freed after its turn.

    Raises:
        UserError: It is not well-formed, or declares entities.
    """
    events = etree.iterparse(
        stream,
        events=("end",),
        tag=[f"{{*}}{tag}" for tag in tags],
        resolve_entities=False,
        no_network=True,
        remove_comments=True,
        huge_tree=True,  # lifts a limit of 10 MB a text; entities stay unexpanded
    )
    try:
        for _, element in events:
            _check_entities(element.getroottree().docinfo, name)
            yield element
            element.clear()
            while element.getprevious() is not None:
                del element.getparent()[0]
    except etree.XMLSyntaxError as error:
        raise damaged(name, error) from None


def _check_entities(docinfo: Any, name: str) -> None:
    declared = docinfo.internalDTD
    if declared is not None and next(declared.iterentities(), None) is not None:
        raise UserError(f"'{name}' declares XML entities, which are not expanded. Add it to the source's `exclude`.")
