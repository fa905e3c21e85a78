import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model import megatron
from model.data import documents

megatron.install()

from model.data.record import write_record  # noqa: E402
from model.job import Job, Shards  # noqa: E402 - after install
from stages.corpus import bpe  # noqa: E402
from stages.corpus.documents import Document, ShardWriter  # noqa: E402
from stages.corpus.tokenise import write_shards  # noqa: E402
from stages.curation.engine import Local, started  # noqa: E402
from stages.errors import UserError  # noqa: E402
from stages.files import sha256_file, write_json  # noqa: E402
from tests.model import numbered  # noqa: E402

ROOT = Path(__file__).parents[3]
TEXTS = {"code": ["def one():\n", "two = 2\n" * 9], "prose": ["A short text. " * 6, "Another.", "And a third."]}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A finished run of real documents in the working directory, as far as the command reads it."""
    monkeypatch.chdir(tmp_path)
    train = tmp_path / "out" / "shards" / "tokens" / "train"
    bpe.train([text for texts in TEXTS.values() for text in texts], 280).save("tokenizer.json")
    for domain, texts in TEXTS.items():
        with ShardWriter(Path("documents"), domain) as writer:
            for number, text in enumerate(texts):
                writer.add(about(domain, number, text))
    files = {train / domain: [Path("documents", f"{domain}-00000.parquet")] for domain in TEXTS}
    with started(Local(kind="local", workers=1)) as workers:
        write_shards(files, Path("tokenizer.json"), workers, Path("scratch"))
    write_json(tmp_path / "out" / "shards" / "index.json", {"some": "content"})
    made = numbered.job(tmp_path, numbered.phase(tokens=320))
    digest = sha256_file(tmp_path / "out" / "shards" / "index.json")
    shards = Shards(**{**made.shards.model_dump(), "digest": digest, "tokens": str(train.parent)})
    made = made.model_copy(update={"shards": shards})
    (tmp_path / "out" / "pretrain").mkdir()
    write_json(tmp_path / "out" / "pretrain" / "run.json", {"settings": made.model_dump(mode="json")})
    rows = [{"step": step, "first_sample": made.plan.at(step).first_sample} for step in range(1, made.plan.steps + 1)]
    write_record(Path("out/pretrain/documents.parquet"), made, tmp_path / "index", rows)
    return made


def about(domain: str, number: int, text: str) -> Document:
    return Document(
        id=f"{domain}/{number}",
        text=text,
        domain=domain,
        source=f"source of {domain}",
        origin=f"file-{number}",
        license="MIT",
        sha256="",
    )


def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["documents", *arguments])
    documents.main()
    return capsys.readouterr().out


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_step_names_its_documents(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = objects(ask(monkeypatch, capsys, "3", "--json"))
    assert sum(row["end"] - row["start"] for row in rows) == 4 * 8
    assert [row["sample"] for row in rows] == sorted(row["sample"] for row in rows)
    for row in rows:
        assert row["step"] == 3
        assert row["id"] == f"{row['domain']}/{row['document']}"
        assert (row["source"], row["license"]) == (f"source of {row['domain']}", "MIT")
        assert row["origin"] == f"file-{row['document']}"


def test_a_document_names_its_steps(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    by_step = [row for step in range(1, 11) for row in objects(ask(monkeypatch, capsys, str(step), "--json"))]
    for name in ("code/1", "prose/0", "prose/2"):
        asked = objects(ask(monkeypatch, capsys, "--document", name, "--json"))
        assert asked == [row for row in by_step if row["id"] == name]
        assert asked


def test_the_table_has_the_same_rows(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ask(monkeypatch, capsys, "3").splitlines()
    assert lines[0].split() == list(documents.COLUMNS)
    ids = [row["id"] for row in objects(ask(monkeypatch, capsys, "3", "--json"))]
    assert [line.split()[6] for line in lines[1:]] == ids


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0"], "step 0 is not in 'out/pretrain/documents.parquet', which has steps 1 to 10"),
        (["11"], "step 11 is not in"),
        (["--document", "code/7"], "no training document has the id 'code/7'"),
        (["1", "--out", "elsewhere"], r"'elsewhere/documents.parquet' is missing.*dvc repro pretrain"),
        (["1", "--shards", "elsewhere"], r"'elsewhere/tokens/train' is missing.*dvc repro shards"),
    ],
)
def test_what_cannot_be_told_is_said(
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    with pytest.raises(UserError, match=message):
        ask(monkeypatch, capsys, *arguments)


def test_shards_of_another_run_are_refused(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(Path("out/shards/index.json"), {"other": "content"})
    with pytest.raises(UserError, match=r"was trained on shards whose index\.json has SHA-256"):
        ask(monkeypatch, capsys, "1")


def test_the_command_starts_without_torch_and_ends_with_one_line(job: Job) -> None:
    check = "import sys, model.data.documents; print('torch' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout == "False\n"
    command = [sys.executable, "-m", "model.data.documents", "12", "--out", str(Path("out/pretrain").absolute())]
    ended = subprocess.run(
        [*command, "--shards", str(Path("out/shards").absolute())], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("documents: step 12 is not in")
    assert len(ended.stderr.splitlines()) == 1
