"""A projection back into the residual stream with a norm behind it, as OLMo 2 has it (Team OLMo 2025)."""

from typing import Any

from torch import Tensor

from model import megatron

megatron.install()

from megatron.core.tensor_parallel import RowParallelLinear  # noqa: E402 - after install
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

from model.network.modules import Norm  # noqa: E402


class NormedRowParallelLinear(RowParallelLinear):
    """RowParallelLinear whose output, summed over the tensor-parallel processes, is normed.

    The norm is replicated, and of this process's part of the sequence under sequence parallelism. The layer's dropout
    comes after it.

    Args:
        input_size: Width of the input of all tensor-parallel processes together.
        output_size: Width of the output.
        config: Megatron-Core's configuration of the model.
        bias: Must be False: Megatron-Core would add it behind the norm.
        rest: RowParallelLinear's.
    """

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
