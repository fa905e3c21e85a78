"""Energy that the processors of a process took: measured where they count it, else estimated.

Of the machine, only this counts: on a GPU the GPU, on a CPU the CPU. Cooling, memory, network and disks do not.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WATTS_A_CORE = 10.0
"""For a core that works, where nothing is measured: the median thermal design power a core of the Xeons in the list of
Green Algorithms (Lannelongue et al. 2021)."""

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows the counters of RAPL."""

Counter = Callable[[], float]
"""Gives joules since some moment."""


class EnergyMeter:
    """Counts from its creation. The sum over all processes is the run's.

    Args:
        device: Of the process; None for the CPU.
    """

    def __init__(self, device: "torch.device | None" = None) -> None:
        counter = _gpu(device) if device is not None and device.type == "cuda" else rapl()
        self._measured = counter is not None
        self._counter = counter or _estimate
        self._start = self._counter()

    def joules(self) -> tuple[float, bool]:
        """Return the joules since the meter was made, and whether they were measured."""
        return self._counter() - self._start, self._measured


def _gpu(device: "torch.device") -> Counter | None:
    """Return the counter of a GPU; None if it keeps none (before Volta, or a slice)."""
    import pynvml
    import torch

    try:
        pynvml.nvmlInit()
        # By its UUID: CUDA numbers the visible devices alone.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3


def rapl(root: Path = POWERCAP) -> Counter | None:
    """Return this process's share of the counters of the machine's packages; None if they cannot be read.

    What else runs on the machine is counted too. The processes that torchrun started here share alike.
    """
    names = sorted(root.glob("intel-rapl:*/name"))  # AMD's too; other zones are parts of the packages or all of them
    packages = [name.parent for name in names if name.read_text(encoding="ascii").startswith("package")]
    if not packages or not all(os.access(package / "energy_uj", os.R_OK) for package in packages):
        return None
    counters = [_Package(package) for package in packages]
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return lambda: sum(counter.joules() for counter in counters) / processes


class _Package:
    """A counter that starts again at 0 when it is full, at the earliest after minutes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._full = self._read("max_energy_range_uj")
        self._last = self._read("energy_uj")
        self._sum = 0

    def joules(self) -> float:
        now = self._read("energy_uj")
        self._sum += now - self._last + (self._full if now < self._last else 0)
        self._last = now
        return self._sum / 1e6

    def _read(self, name: str) -> int:
        return int((self._folder / name).read_text(encoding="ascii"))


def _estimate() -> float:
    return WATTS_A_CORE * time.process_time()
