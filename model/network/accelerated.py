"""What takes over from the plain modules on a GPU that has it: Transformer Engine, and Apex's fused gradient sums.

Nothing here is needed, but for fp8. Its weights have the same names, so checkpoints go either way.
"""

import copy
import platform
from importlib.metadata import version
from typing import Any

from model import megatron

megatron.install()

from megatron.core import optimizer  # noqa: E402 - after install
from megatron.core.extensions.transformer_engine import HAVE_TE  # noqa: E402
from megatron.core.tensor_parallel import layers  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

from model.network import gemm  # noqa: E402
from stages.errors import UserError  # noqa: E402


def has_transformer_engine(device: str) -> bool:
    """Return whether linear layers and norms are Transformer Engine's."""
    return device == "cuda" and HAVE_TE


def options(device: str, precision: str) -> dict[str, Any]:
    """Return what Megatron-Core's configuration says of implementations.

    Raises:
        UserError: fp8 without Transformer Engine.
    """
    with_engine = has_transformer_engine(device)
    if precision == "fp8" and not with_engine:
        raise UserError(
            'pretrain.precision = "fp8" needs Transformer Engine, which is not installed; install it or choose "bf16"'
        )
    chosen = {
        "transformer_impl": "transformer_engine" if with_engine else "local",
        "gradient_accumulation_fusion": device == "cuda" and (with_engine or layers._grad_accum_fusion_available),
    }
    if precision == "fp8":
        chosen |= {"fp8": "hybrid", "fp8_recipe": "tensorwise"}  # its scales are of the moment: no history to save
    return chosen


def for_own_linear(config: TransformerConfig) -> TransformerConfig:
    """Return a configuration for linear layers of Megatron-Core's own, also where Transformer Engine has the others.

    Transformer Engine adds to a gradient as it computes it; Megatron-Core's layers need Apex for that.
    """
    if layers._grad_accum_fusion_available or not config.gradient_accumulation_fusion:
        return config
    own = copy.copy(config)
    own.gradient_accumulation_fusion = False
    return own


def implementation(device: str) -> dict[str, str]:
    """Return whose code does the work on a device, for the record of a run."""
    linear = "oneDNN and MKL" if gemm.HAS_ONEDNN and platform.machine() == "x86_64" else "torch"
    if device == "cuda":
        linear = f"transformer-engine {version('transformer-engine')}" if HAVE_TE else "cuBLAS"
    fused = device == "cuda" and (HAVE_TE or layers._grad_accum_fusion_available)
    return {
        "linear": linear,
        "attention": "torch scaled_dot_product_attention",
        "optimizer": f"{optimizer.Adam.__module__}.{optimizer.Adam.__qualname__}",
        "gradient_accumulation": "fused into the product" if fused else "separate",
    }
