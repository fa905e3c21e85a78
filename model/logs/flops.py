"""Model FLOPs, peak FLOP/s and their quotient, model FLOPs utilisation (MFU). The formula imports no torch.

The convention is PaLM's (Chowdhery et al. 2022, appendix B), which Megatron-LM and NeMo share: what a training step
must compute, not what it does. A multiply-add is two FLOPs, the backward pass twice the forward; recomputation, norms
and the optimizer do not count, nor do layers that predict further tokens; attention counts whole, though half of it is
masked (and more, with document masks), but a layer with a window only that.
"""

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from model.families.family import ModelSettings

if TYPE_CHECKING:
    import torch

    Kernel = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Peak(NamedTuple):
    """What processors can do at most."""

    flops: float
    """FLOP/s."""
    measured: bool
    """Whether it is the rate of a large matrix product here; if not, it is the vendor's figure."""


def training_flops(weights: int, attention_width: int, attended: int) -> int:
    """Return the FLOPs of forward and backward pass for one token.

    Args:
        weights: Of the matrices that a token meets, the output layer's among them, the embedding table not.
        attention_width: Query heads times their width.
        attended: Tokens that a token attends to in all layers together, the masked half counted.
    """
    return 6 * weights + 12 * attention_width * attended


def flops_per_token(model: ModelSettings, vocab_size: int, seq_length: int) -> int:
    """Return the FLOPs of forward and backward pass for one token of a model.

    Args:
        model: Its shape; of a mixture of experts, those that a token visits count, and the router.
        vocab_size: Ids of the tokenizer: padding of the table is no use.
        seq_length: Tokens in one sequence.
    """
    from model.counts import counts

    return training_flops(counts(model, vocab_size).matrices, model.attention_width, model.attended(seq_length))


def mfu(tokens_per_second: float, flops_per_token: float, peak: Peak) -> float:
    """Return model FLOPs utilisation: tokens a second, over as many as the peak would allow.

    Args:
        tokens_per_second: Of all processes together.
        flops_per_token: Forward and backward.
        peak: Of all processes together.
    """
    return tokens_per_second * flops_per_token / peak.flops


_GPUS: dict[str, dict[str, float]] = {
    # Name as the driver gives it, whole: a slice (MIG) or a laptop's part is another processor. TFLOP/s of dense
    # matrices by NVIDIA's data sheets and architecture papers, halved where they count sparse ones, accumulated in
    # float32; float32 is without TensorFloat-32.
    r"A100-.*|NVIDIA A100-(SXM4|PCIE)-\d+GB|NVIDIA A100 80GB PCIe": {"float32": 19.5, "bf16": 312},
    r"NVIDIA A10": {"float32": 31.2, "bf16": 125},
    r"NVIDIA L4": {"float32": 30.3, "bf16": 121, "fp8": 242.5},
    r"NVIDIA L40S": {"float32": 91.6, "bf16": 362, "fp8": 733},
    r"NVIDIA H100 80GB HBM3|NVIDIA GH200 \w+( HBM3e)?|NVIDIA H200": {"float32": 67, "bf16": 989.5, "fp8": 1979},
    r"NVIDIA H100 PCIe": {"float32": 51, "bf16": 756.5, "fp8": 1513},
    r"NVIDIA H100 NVL|NVIDIA H200 NVL": {"float32": 60, "bf16": 835.5, "fp8": 1670.5},
    r"NVIDIA B200": {"float32": 75, "bf16": 2250, "fp8": 4500},
    r"NVIDIA GB200": {"float32": 80, "bf16": 2500, "fp8": 5000},
    r"NVIDIA RTX A6000": {"float32": 38.7, "bf16": 154.8},
    r"NVIDIA GeForce RTX 3090": {"float32": 35.6, "bf16": 71},
    r"NVIDIA GeForce RTX 4090": {"float32": 82.6, "bf16": 165.2, "fp8": 330.3},
    r"NVIDIA GeForce RTX 5090": {"float32": 104.8, "bf16": 209.5, "fp8": 419},
}


def published_peak(gpu: str, precision: str) -> float | None:
    """Return the vendor's FLOP/s of dense matrix products, or None for a GPU that is not in the table.

    Args:
        gpu: Its name as `torch.cuda.get_device_name` gives it.
        precision: `float32`, `bf16` or `fp8`.
    """
    for pattern, teraflops in _GPUS.items():
        if re.fullmatch(pattern, gpu) and precision in teraflops:
            return teraflops[precision] * 1e12
    return None


def total_peak(precision: str, device: "torch.device") -> Peak:
    """Return the peak of all processes together. Every process calls this, and waits for the others.

    Where it is measured, all measure at once, so that processes that share the cores of a machine share its rate.

    Args:
        precision: `float32`, `bf16` or `fp8`.
        device: Of this process.
    """
    import torch
    import torch.distributed as dist

    published = published_peak(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None
    if dist.is_initialized():
        dist.barrier()
    own = published or measured_peak(precision, device)
    total = torch.tensor([own, published is None], dtype=torch.float64, device=device)
    if dist.is_initialized():
        dist.all_reduce(total)
    return Peak(total[0].item(), total[1].item() > 0)


def measured_peak(precision: str, device: "torch.device", seconds: float = 0.3) -> float:
    """Return the best rate in FLOP/s of products of square matrices, larger and larger until the time is over.

    Args:
        precision: `float32`, else bf16 (torch's products in fp8 take scales that would have to be invented).
        device: Of this process; on a CPU with its number of threads.
        seconds: A size is begun only if it will end within about this time.
    """
    import torch

    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    generator = torch.Generator(device).manual_seed(0)  # the process's own random state stays as it is
    end, size, best = time.perf_counter() + seconds, 256, 0.0
    while True:
        x, y = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
        fastest = min(_seconds(kernel, x, y, device) for kernel in _kernels(device, dtype) for _ in range(3))
        best = max(best, 2 * size**3 / fastest)
        size *= 2
        if time.perf_counter() + 6 * 8 * fastest > end or size > 8192:
            return best


def _kernels(device: "torch.device", dtype: "torch.dtype") -> list["Kernel"]:
    """Return the ways to multiply here; of those in float32 on a CPU, MKL's or oneDNN's is faster by its maker."""
    import torch

    kernels: list[Kernel] = [torch.mm]
    if device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        kernels.append(lambda x, y: torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], ""))
    return kernels


def _seconds(kernel: "Kernel", x: "torch.Tensor", y: "torch.Tensor", device: "torch.device") -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    kernel(x, y)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
