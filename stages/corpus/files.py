"""Sources of kind `files`: texts below a folder, as files of their own or as rows of JSON lines and Parquet."""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from stages.corpus.candidates import Candidate, Reading, decode, select
from stages.corpus.licenses import stated
from stages.corpus.sources import FilesSource, Texts
from stages.corpus.walk import entries_below
from stages.errors import UserError

PLAIN = (".txt", ".md", ".rst")
Row = tuple[int, dict[str, Any]]


def read(source: FilesSource) -> Reading:
    """Open a source of kind `files`.

    Raises:
        UserError: The folder is missing, or a selected file is of no known format.
    """
    root = Path(source.root)
    return Reading({}, (candidate for path in selected(source) for candidate in of_file(source, root / path, path)))


def selected(source: FilesSource) -> list[str]:
    """Return the files below the root that the patterns select.

    Raises:
        UserError: The folder is missing, a link in it leads nowhere or in a circle, or a file is of no known format.
    """
    root = Path(source.root)
    if not root.is_dir():
        raise UserError(f"A source's root = '{source.root}' is not a folder. Correct it, or fetch its files first.")
    paths = select(entries_below(root), source.include, source.exclude)
    for path in paths:
        if not (root / path).is_file():
            raise UserError(
                f"'{path}' in '{source.root}' is a link to nothing, or to a folder that it lies in. "
                "Mend it, or add it to `exclude`."
            )
    check_formats(paths, f"'{source.root}'")
    return paths


def check_formats(paths: Iterable[str], where: str) -> None:
    """Check that each path's ending is that of a known format.

    Raises:
        UserError: One is not; the message says `where` it is.
    """
    for path in paths:
        if not path.endswith((*PLAIN, *_ROWS)):
            raise UserError(
                f"'{path}' in {where} is none of {', '.join((*PLAIN, *_ROWS))}. "
                "Narrow the source's `include`, or add it to `exclude`."
            )


def of_file(source: Texts, path: Path, name: str) -> Iterator[Candidate]:
    """Yield the texts of a file whose name in the source, which says its format, is `name`.

    Raises:
        UserError: The file is damaged, or its rows are not as the source says.
    """
    suffix = next((suffix for suffix in _ROWS if name.endswith(suffix)), None)
    if suffix is None:
        text = decode(path.read_bytes(), name, "utf-8-sig")
        if source.license is None:
            raise UserError(f"'{name}' has no columns for license_column = '{source.license_column}'. Give `license`.")
        yield Candidate(text, name, stated(source.license))
        return
    try:
        for number, row in _ROWS[suffix](path, name):
            yield _of_row(source, f"{name}:{number}", row)
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError, pa.ArrowInvalid) as error:
        raise UserError(f"'{name}' is damaged: {error}. Fetch it again, or add it to the source's `exclude`.") from None


def _of_row(source: Texts, origin: str, row: dict[str, Any]) -> Candidate:
    text = _cell(row, source.text_column, origin)
    if not isinstance(text, str):
        raise UserError(f"'{origin}': column '{source.text_column}' holds {json.dumps(text)[:80]}, not a text.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"'{origin}' has half a surrogate pair at character {error.start}. Correct the row.") from None
    terms = source.license if source.license_column is None else _cell(row, source.license_column, origin)
    return Candidate(text, origin, stated(terms))


def _cell(row: dict[str, Any], column: str, origin: str) -> Any:
    if column not in row:
        raise UserError(f"'{origin}' has no column '{column}'; it has {', '.join(map(repr, row))}.")
    return row[column]


def _json_lines(open_file: Callable[[Path], BinaryIO]) -> Callable[[Path, str], Iterator[Row]]:
    def rows(path: Path, name: str) -> Iterator[Row]:
        with open_file(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _json_object(line, f"{name}:{number}")

    return rows


def _json_object(line: bytes, origin: str) -> dict[str, Any]:
    try:
        row = json.loads(decode(line, origin))
    except json.JSONDecodeError as error:
        raise UserError(f"'{origin}' is not JSON: {error}. Correct the line.") from None
    if not isinstance(row, dict):
        raise UserError(f"'{origin}' is not a JSON object. Correct the line.")
    return row


def _open_zstd(path: Path) -> BinaryIO:
    return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True))


def _open_gzip(path: Path) -> BinaryIO:
    return io.BufferedReader(gzip.open(path, "rb"))


def _parquet_rows(path: Path, name: str) -> Iterator[Row]:
    number = 0
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(batch_size=256):
            try:
                rows = batch.to_pylist()
            except UnicodeDecodeError as error:
                raise UserError(f"'{name}' is not valid utf-8 near row {number + 1}: {error}. Correct it.") from None
            for row in rows:
                number += 1
                yield number, row


_ROWS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".jsonl": _json_lines(lambda path: path.open("rb")),
    ".jsonl.gz": _json_lines(_open_gzip),
    ".jsonl.zst": _json_lines(_open_zstd),
    ".parquet": _parquet_rows,
}
