"""What decides the bytes of a run besides its parameters and data."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from model.network.accelerated import implementation
from model.settings import PretrainSettings

_PACKAGES = ("torch", "megatron-core", "transformers", "numpy", "tokenizers")


def environment(settings: PretrainSettings) -> dict[str, Any]:
    """Return versions, device, CPU capability and threads of the running processes.

    No name or time of the machine is in it, so that two machines of one kind have the same record.
    """
    on_gpu = settings.device == "cuda"
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in _PACKAGES},
        "cpu": _cpu(),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "cuda": torch.version.cuda,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "num_threads": settings.num_threads,
        "world_size": dist.get_world_size(),
        "backend": dist.get_backend(),
        "implementation": implementation(settings.device),
    }


def _cpu() -> str:
    """Return the CPU's model: MKL and oneDNN choose their kernels, and so the order of sums, by it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
