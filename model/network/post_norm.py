"""Norms behind attention and MLP in place of before them, as OLMo 2 has them (Team OLMo 2025)."""

from functools import cache
from typing import Any

from torch import Tensor

from model import megatron

megatron.install()

from megatron.core.extensions.transformer_engine import TEColumnParallelLinear  # noqa: E402 - after install
from megatron.core.transformer.identity_op import IdentityOp  # noqa: E402
from megatron.core.transformer.spec_utils import ModuleSpec  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

from model.network.modules import Norm  # noqa: E402


def move_norms(layer: ModuleSpec) -> None:
    """Take the norms before attention and MLP out of Megatron-Core's specification of a layer, and put some behind.

    They stand before the layer's dropout and residual, in the linear layers `linear_proj` and `linear_fc2`.
    """
    parts = layer.submodules
    attention, mlp = parts.self_attention.submodules, parts.mlp.submodules
    if parts.input_layernorm is IdentityOp:  # Transformer Engine has the norms in these
        attention.linear_qkv = mlp.linear_fc1 = TEColumnParallelLinear
    parts.input_layernorm = parts.pre_mlp_layernorm = IdentityOp
    attention.linear_proj, mlp.linear_fc2 = map(with_norm_behind, (attention.linear_proj, mlp.linear_fc2))


@cache  # torch.compile makes a graph for every class
def with_norm_behind(linear: type) -> type:
    """Return a row-parallel linear layer whose output, summed over the tensor-parallel processes, is normed.

    The norm is replicated, and of the process's part of the sequence under sequence parallelism. There may be no bias:
    Megatron-Core would add it behind the norm.
    """

    class Normed(linear):
        def __init__(
            self, input_size: int, output_size: int, *, config: TransformerConfig, bias: bool, **rest: Any
        ) -> None:
            assert not bias
            super().__init__(input_size, output_size, config=config, bias=bias, **rest)
            self.post_layernorm = Norm(config, output_size, config.layernorm_epsilon)

        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            """Return the normed product of `[s, b, in / tensor-parallel size]`, `[s, b, out]`, and no bias."""
            out, _ = super().forward(x)
            return self.post_layernorm(out), None

    return Normed
