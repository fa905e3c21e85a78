import json
from pathlib import Path
from typing import Any

import pytest

from stages.errors import UserError
from stages.pretrain import read_job_from_params
from tests.model import corpus


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    corpus.write(tmp_path)
    values: dict[str, Any] = corpus.params()
    return values


def job(params: dict[str, Any]) -> Any:
    Path("params.yaml").write_text(json.dumps(params))
    return read_job_from_params()


def test_the_fingerprint_is_that_of_data_and_parameters(params: dict[str, Any]) -> None:
    before = job(params).fingerprint()
    assert job(params).fingerprint() == before
    params["pretrain"]["data_seed"] += 1
    assert job(params).fingerprint() != before
    params["pretrain"]["data_seed"] -= 1
    index = Path("out/shards/index.json")
    index.write_text(index.read_text().replace('"tokens"', '"tokens" '))
    assert job(params).fingerprint() != before


def test_a_blend_that_is_not_of_the_domains_of_the_data_is_refused(params: dict[str, Any]) -> None:
    params["pretrain"]["phases"]["main"]["blend"] = {"code": 1.0}
    with pytest.raises(UserError, match=r"phases name \['code'\], but the shards hold \['code', 'prose'\]"):
        job(params)


def test_data_that_would_come_too_often_is_refused(params: dict[str, Any]) -> None:
    params["pretrain"]["phases"]["main"]["tokens"] = 10**6
    job(params)
    params["pretrain"]["max_epochs"] = {"default": 4.0}
    with pytest.raises(UserError, match=r"tokens of 'code', \d+\.\d\d times the [\d,]+ in its shard.* add data"):
        job(params)


def test_missing_shards_name_their_stage(params: dict[str, Any]) -> None:
    Path("out/shards/index.json").unlink()
    with pytest.raises(UserError, match=r"'out/shards/index\.json' is missing.*run `dvc repro shards`"):
        job(params)
