"""Which format a file has: told by its name and the source's settings, never by its content."""

import importlib
import io
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from stages.errors import UserError
from stages.formats.patterns import fits
from stages.formats.row import Options, Reader, Row
from stages.formats.settings import FormatSettings

# A new format is a module with `read` and its endings here; modules are imported when a file needs them.
_MODULES = {
    "plain": (".txt", ".md", ".mdx", ".rst"),
    "json_lines": (".jsonl", ".ndjson"),
    "json_objects": (".json",),
    "parquet": (".parquet",),
    "html": (".html", ".htm", ".xhtml"),
    "mediawiki": (".xml",),
    "warc": (".warc", ".wet"),
    "latex": (".tex",),
    "cnxml": (".cnxml",),
}
_COMPRESSIONS = (".gz", ".zst", ".bz2")
ENDINGS = tuple(ending for endings in _MODULES.values() for ending in endings)


def check(names: Iterable[str], where: str, settings: FormatSettings) -> None:
    """Check that each file's format is known, by its ending or by the source's `formats.plain`.

    Raises:
        UserError: One is not; the message says `where` it is.
    """
    for name in names:
        if _module(name, settings) is None:
            raise UserError(
                f"'{name}' in {where} is none of {', '.join(ENDINGS)}, alone or with {', '.join(_COMPRESSIONS)}. "
                "Narrow the source's `include`, add it to `exclude`, or name it in `formats.plain` if it is text as it "
                "stands, such as code."
            )


def rows(stream: BinaryIO, name: str, options: Options) -> Iterator[Row]:
    """Yield the texts of a file, in order.

    Args:
        stream: The file's bytes from the beginning; of Parquet, it can seek.
        name: The file's name in its source, which says its format, and which messages name.
        options: How it is read.

    Raises:
        UserError: The format is not known, or the file is damaged, hostile, or not as the source says.
    """
    module = _module(name, options.settings)
    if module is None:
        check([name], "the source", options.settings)
        raise AssertionError
    read: Reader = importlib.import_module(f"stages.formats.{module}").read
    if name.endswith(_COMPRESSIONS):
        from stages.formats.compression import Decompressed

        stream = io.BufferedReader(Decompressed(stream, name, options))
    yield from read(stream, name, options)


def _module(name: str, settings: FormatSettings) -> str | None:
    for suffix in _COMPRESSIONS:
        name = name.removesuffix(suffix)
    if fits(settings.plain, name):
        return "plain"
    fitting = (module for module, endings in _MODULES.items() if name.endswith(endings))
    return next(fitting, None)
