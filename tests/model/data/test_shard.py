from pathlib import Path

import numpy as np
import pytest

from model.data.shard import TokenShard
from stages.errors import UserError
from tests.model import numbered


def test_documents_and_their_parts_are_read_as_written(tmp_path: Path) -> None:
    documents = numbered.write(tmp_path / "code", [5, 1, 8])
    shard = TokenShard(tmp_path / "code")
    assert shard.lengths.tolist() == [5, 1, 8]
    for index, document in enumerate(documents):
        assert np.array_equal(shard.tokens(index), document)
    assert np.array_equal(shard.tokens(2, 3, 5), documents[2][3:5])


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_a_missing_file_is_named(tmp_path: Path, suffix: str) -> None:
    numbered.write(tmp_path / "code", [5])
    (tmp_path / "code").with_suffix(suffix).unlink()
    with pytest.raises(UserError, match=rf"code\{suffix}' is missing; run `dvc repro shards`"):
        TokenShard(tmp_path / "code")


def test_tokens_cut_short_are_refused(tmp_path: Path) -> None:
    numbered.write(tmp_path / "code", [5, 6])
    file = tmp_path / "code.bin"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError, match="has 40 bytes, its index tells of 44"):
        TokenShard(tmp_path / "code")


def test_an_empty_document_is_refused(tmp_path: Path) -> None:
    numbered.write(tmp_path / "code", [5, 0, 3])
    with pytest.raises(UserError, match="empty"):
        TokenShard(tmp_path / "code")
