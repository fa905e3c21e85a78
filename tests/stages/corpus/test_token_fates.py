from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.corpus.token_fates import FATES, Row, fates
from stages.errors import UserError

# id, source, domain, license, language, split, step, reason, kept_bytes; and the tokens of what is kept
KEPT = [
    (("a", "peps", "docs", "PSF-2.0", "en", "train", None, None, 100), 30),
    (("b", "peps", "docs", "CC0-1.0", "en", "test", None, None, 60), 10),
    (("c", "rfcs", "docs", "CC0-1.0", None, "train", None, None, 40), 20),
    (("d", "peps", "docs", "PSF-2.0", "en", "train", None, None, 50), 17),
    (("e", "novels", "books", "CC0-1.0", "de", "train", None, None, 10), 9),
]
DROPPED = [
    ("f", "peps", "docs", "PSF-2.0", "en", None, "length", "too short", 21),
    ("g", "blogs", "docs", "CC0-1.0", "en", None, "length", "too short", 25),
    ("h", "crawl", "web", "CC0-1.0", "en", None, "duplicates", "near", 26),
]
ORDER = [KEPT[0][0], DROPPED[0], KEPT[1][0], KEPT[2][0], DROPPED[1], DROPPED[2], KEPT[3][0], KEPT[4][0]]
Sidecars = dict[tuple[str, str], Path]


def write_trail(folder: Path, rows: Sequence[tuple[Any, ...]], in_part: int, in_group: int = 8) -> list[Path]:
    folder.mkdir(exist_ok=True)
    names = ["id", *FATES, "kept_bytes"]
    paths = []
    for first in range(0, len(rows), in_part):
        paths.append(folder / f"{first:05d}.parquet")
        columns = zip(*rows[first : first + in_part], strict=True)
        types = [pa.string()] * (len(names) - 1) + [pa.int64()]
        arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
        pq.write_table(pa.table(arrays, names), paths[-1], row_group_size=in_group)
    return paths


@pytest.fixture
def sidecars(tmp_path: Path) -> Sidecars:
    """The sidecars of the documents in `KEPT`."""
    paths: Sidecars = {}
    for split, domain in (("train", "docs"), ("test", "docs"), ("train", "books")):
        own = [(row[0], tokens) for row, tokens in KEPT if (row[5], row[2]) == (split, domain)]
        paths[split, domain] = tmp_path / f"{split}-{domain}.parquet"
        ids, tokens = zip(*own, strict=True)
        pq.write_table(pa.table({"id": ids, "tokens": tokens}), paths[split, domain])
    return paths


def of(rows: list[Row], **values: str) -> list[Row]:
    return [row for row in rows if values.items() <= row.items()]


def test_kept_documents_have_the_tokens_of_their_shards(tmp_path: Path, sidecars: Sidecars) -> None:
    rows = fates(write_trail(tmp_path / "trail", ORDER, in_part=8), sidecars)
    found = of(rows, source="peps", split="train")
    assert found == [
        dict(zip(FATES, KEPT[0][0][1:8], strict=True)) | {"documents": 2, "bytes": 150, "tokens": 47},
    ]
    assert of(rows, source="rfcs")[0]["language"] is None
    assert sum(row.get("tokens", 0) for row in rows) == sum(tokens for _, tokens in KEPT)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("peps", round(21 * 57 / 210)),  # the source's own
        ("blogs", round(25 * 77 / 250)),  # nothing of it is kept: the domain's
        ("crawl", round(26 * 86 / 260)),  # nor of its domain: everything's
    ],
)
def test_dropped_documents_are_estimated_from_what_is_nearest(
    source: str, expected: int, tmp_path: Path, sidecars: Sidecars
) -> None:
    rows = fates(write_trail(tmp_path / "trail", ORDER, in_part=8), sidecars)
    (row,) = [row for row in of(rows, source=source) if row["split"] is None]
    assert row["estimated_tokens"] == expected > 0
    assert "tokens" not in row


def test_neither_parts_nor_row_groups_show(tmp_path: Path, sidecars: Sidecars) -> None:
    whole = fates(write_trail(tmp_path / "whole", ORDER, in_part=8), sidecars)
    assert fates(write_trail(tmp_path / "parts", ORDER, in_part=3, in_group=1), sidecars) == whole
    assert fates(write_trail(tmp_path / "groups", ORDER, in_part=8, in_group=3), sidecars) == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [rows[6], *rows[1:6], rows[0], rows[7]], r"kept in 'train' are not those of the shard 'docs'"),
        (lambda rows: [*rows, ("z", *rows[0][1:])], r"kept in 'train' are not those of the shard 'docs'"),
        (lambda rows: rows[:-1], r"shard of 'books' in 'train' has more documents than its trail"),
        (lambda rows: [*rows, ("z", "x", "poems", "MIT", "en", "test", None, None, 1)], r"'test' .* shard 'poems'"),
    ],
    ids=["in another order", "one more", "one less", "of an unknown domain"],
)
def test_a_trail_of_other_documents_is_refused(change: Any, message: str, tmp_path: Path, sidecars: Sidecars) -> None:
    with pytest.raises(UserError, match=f"{message}.*dvc repro -f -s curate"):
        fates(write_trail(tmp_path / "trail", change(ORDER), in_part=8), sidecars)
