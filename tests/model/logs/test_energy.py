import time
from pathlib import Path

import pytest

from model.logs.energy import WATTS_A_CORE, EnergyMeter, rapl


def zone(root: Path, number: str, name: str, microjoules: int) -> Path:
    """Write a RAPL counter as Linux shows it, and return the file that counts."""
    folder = root / f"intel-rapl:{number}"
    folder.mkdir()
    (folder / "name").write_text(name + "\n")
    (folder / "max_energy_range_uj").write_text("1000000000\n")
    counter = folder / "energy_uj"
    counter.write_text(f"{microjoules}\n")
    return counter


def test_packages_are_summed_their_parts_are_not(tmp_path: Path) -> None:
    counters = [zone(tmp_path, "0", "package-0", 5_000_000), zone(tmp_path, "1", "package-1", 7_000_000)]
    parts = [zone(tmp_path, "0:0", "core", 3_000_000), zone(tmp_path, "2", "psys", 9_000_000)]
    joules = rapl(tmp_path)
    assert joules
    for counter in counters + parts:
        counter.write_text(f"{int(counter.read_text()) + 2_000_000}\n")
    assert joules() == 4.0


def test_a_full_counter_starts_again(tmp_path: Path) -> None:
    counter = zone(tmp_path, "0", "package-0", 999_000_000)
    joules = rapl(tmp_path)
    assert joules
    counter.write_text("2000000\n")
    assert joules() == 3.0
    counter.write_text("4000000\n")
    assert joules() == 5.0


def test_processes_of_a_machine_share_its_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    counter = zone(tmp_path, "0", "package-0", 0)
    joules = rapl(tmp_path)
    assert joules
    counter.write_text("8000000\n")
    assert joules() == 2.0


def test_a_machine_without_counters_has_none(tmp_path: Path) -> None:
    assert rapl(tmp_path) is None


def test_work_takes_energy_measured_where_there_is_a_counter() -> None:
    meter, start = EnergyMeter(), time.process_time()
    before, measured = meter.joules()
    while time.process_time() < start + 0.2:
        pass
    after, _ = meter.joules()
    assert measured == (rapl() is not None)
    assert after > before >= 0
    if not measured:
        assert after - before == pytest.approx(0.2 * WATTS_A_CORE, rel=0.1)
