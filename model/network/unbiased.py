"""Linear layers without a bias in a model whose others have one: Megatron-Core's switch is for all of them."""

from typing import Any

from model import megatron

megatron.install()

from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear  # noqa: E402 - after install


class UnbiasedColumnParallelLinear(ColumnParallelLinear):
    """ColumnParallelLinear without a bias, whatever is asked for."""

    def __init__(self, *args: Any, bias: bool, **rest: Any) -> None:  # noqa: ARG002 - its signature
        super().__init__(*args, bias=False, **rest)


class UnbiasedRowParallelLinear(RowParallelLinear):
    """RowParallelLinear without a bias, whatever is asked for."""

    def __init__(self, *args: Any, bias: bool, **rest: Any) -> None:  # noqa: ARG002 - its signature
        super().__init__(*args, bias=False, **rest)
