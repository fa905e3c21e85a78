from pathlib import Path

from evals.questions import HeldOut
from evals.tasks import definition_digest, write, write_bits_per_byte
from tests.evals import world

DOCUMENTS = world.documents("code", world.texts("json"))


def test_definitions_do_not_depend_on_their_folder(tmp_path: Path) -> None:
    name = write_bits_per_byte(tmp_path / "a", "code", DOCUMENTS)
    assert write_bits_per_byte(tmp_path / "b/c", "code", DOCUMENTS) == name
    assert definition_digest(tmp_path / "a", name) == definition_digest(tmp_path / "b/c", name)


def test_data_and_definition_both_change_the_digest(tmp_path: Path) -> None:
    name = write_bits_per_byte(tmp_path, "code", DOCUMENTS)
    before = definition_digest(tmp_path, name)
    write_bits_per_byte(tmp_path, "code", DOCUMENTS[1:])
    data = definition_digest(tmp_path, name)
    with (tmp_path / f"{name}.yaml").open("a") as file:
        file.write("description: other\n")
    assert len({before, data, definition_digest(tmp_path, name)}) == 3


def test_each_domain_has_both_tasks(tmp_path: Path) -> None:
    names = write(tmp_path, HeldOut({"code": DOCUMENTS, "prose": DOCUMENTS}, {"code": [], "prose": []}))
    assert sorted(names) == ["bits_per_byte_code", "bits_per_byte_prose", "continuation_code", "continuation_prose"]
    assert sorted({path.stem for path in tmp_path.iterdir()}) == sorted(names)
