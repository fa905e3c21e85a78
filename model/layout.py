"""How a model and a batch are split over processes, and which splits cannot be. Imports no torch."""

from collections.abc import Iterator

from pydantic import Field

from stages.settings import Settings


class LayoutSettings(Settings):
    """Every degree of parallelism, in Megatron-Core's terms. The product of all but the experts' is the processes."""

    tensor_model_parallel_size: int = Field(default=1, gt=0)
    """Processes that share every matrix (Shoeybi et al. 2019)."""
    sequence_parallel: bool = False
    """Whether tensor-parallel processes also split the sequence between matrices (Korthikanti et al. 2022)."""
    pipeline_model_parallel_size: int = Field(default=1, gt=0)
    """Processes that share the layers, each a run of them (Narayanan et al. 2021)."""
    virtual_pipeline_model_parallel_size: int = Field(default=1, gt=0)
    """Runs of layers that each pipeline process has; more than one interleaves them and shrinks the bubble."""
    context_parallel_size: int = Field(default=1, gt=0)
    """Processes that share every sequence."""
    expert_model_parallel_size: int = Field(default=1, gt=0)
    """Processes that share the experts; they are the tensor-, context- and data-parallel ones, not more."""
    data_parallel_size: int = Field(default=1, gt=0)
    """Replicas that share every batch."""
    distributed_optimizer: bool = False
    """Whether replicas share the optimizer's states (ZeRO-1, Rajbhandari et al. 2020)."""

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return (
            self.tensor_model_parallel_size
            * self.pipeline_model_parallel_size
            * self.context_parallel_size
            * self.data_parallel_size
        )


def _not_divisible(name: str, value: int, by: str, size: int) -> Iterator[str]:
    if value % size:
        yield f"{name} = {value} is not divisible by {by} = {size}; change one of them"


def refusals(layout: LayoutSettings, sizes: dict[str, int], num_experts: int | None) -> Iterator[str]:
    """Yield why Megatron-Core, or a device, would refuse a layout.

    Args:
        layout: The degrees.
        sizes: By name what tensor parallelism splits (heads, groups, widths), and `num_layers`.
        num_experts: Of a mixture of experts, or None.
    """
    where = "pretrain.layout."
    tensor, pipeline = layout.tensor_model_parallel_size, layout.pipeline_model_parallel_size
    virtual, expert = layout.virtual_pipeline_model_parallel_size, layout.expert_model_parallel_size
    for name, value in sizes.items():
        if name == "num_layers":
            stages = f"{where}pipeline_model_parallel_size * virtual_pipeline_model_parallel_size"
            yield from _not_divisible(f"model.{name}", value, stages, pipeline * virtual)
        else:
            yield from _not_divisible(f"model.{name}", value, f"{where}tensor_model_parallel_size", tensor)
    if virtual > 1 and pipeline == 1:
        yield (
            f"{where}virtual_pipeline_model_parallel_size = {virtual} interleaves pipeline stages, of which there is "
            "one; raise pipeline_model_parallel_size or set it to 1"
        )
    if layout.sequence_parallel and tensor == 1:
        yield (
            f"{where}sequence_parallel splits the sequence over tensor-parallel processes, of which there is one; "
            "raise tensor_model_parallel_size or set it to false"
        )
    if num_experts is None and expert > 1:
        yield f"{where}expert_model_parallel_size = {expert}, but the model has no experts; set it to 1"
    if num_experts is not None:
        yield from _not_divisible("model.moe.num_experts", num_experts, f"{where}expert_model_parallel_size", expert)
        shared = tensor * layout.context_parallel_size * layout.data_parallel_size
        if shared % expert:
            yield (
                f"{where}expert_model_parallel_size = {expert} does not divide the {shared} tensor-, context- and "
                "data-parallel processes that share the experts; change one of them"
            )
        if tensor > 1 and not layout.sequence_parallel:
            yield (
                "a mixture of experts under tensor parallelism needs sequence_parallel (Megatron-Core would train "
                f"every token {tensor} times); set {where}sequence_parallel to true"
            )


def length_refusals(layout: LayoutSettings, seq_length: int) -> Iterator[str]:
    """Yield why sequences of a length cannot be split."""
    if layout.context_parallel_size > 1 and seq_length % (2 * layout.context_parallel_size):
        yield (
            f"seq_length {seq_length} is not divisible by 2 * pretrain.layout.context_parallel_size = "
            f"{2 * layout.context_parallel_size}: every process takes a piece from each end; choose a multiple"
        )
    split = layout.tensor_model_parallel_size * layout.context_parallel_size
    if layout.sequence_parallel and seq_length % split:
        yield (
            f"seq_length {seq_length} is not divisible by tensor_model_parallel_size * context_parallel_size = "
            f"{split}, as sequence_parallel needs; choose a multiple"
        )


def batch_refusals(layout: LayoutSettings, micro_batch_size: int, global_batch_size: int) -> Iterator[str]:
    """Yield why a global batch cannot be split."""
    one_pass = micro_batch_size * layout.data_parallel_size
    if global_batch_size % one_pass:
        yield (
            f"global_batch_size {global_batch_size} is not divisible by micro_batch_size * data_parallel_size = "
            f"{one_pass}; choose a multiple"
        )
    elif layout.virtual_pipeline_model_parallel_size > 1:
        passes = global_batch_size // one_pass
        if passes % layout.pipeline_model_parallel_size:
            yield (
                f"global_batch_size {global_batch_size} makes {passes} micro batches, which interleaved stages need "
                f"to be a multiple of pipeline_model_parallel_size = {layout.pipeline_model_parallel_size}; change it"
            )
