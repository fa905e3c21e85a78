"""Megatron-Core 0.16.1 on a machine without CUDA or without Transformer Engine.

Megatron-Core asks for `device="cuda"` and `torch.cuda.*` by name all along its training path, and has no CPU
mode. Where CUDA is absent, `install` gives every `megatron.core` module its own `torch` namespace, a copy whose
`cuda` is the CPU; torch itself stays as it is for everyone else, but for two methods (`Tensor.type`,
`Tensor.cuda`) whose results Megatron-Core relies on. On any device without Transformer Engine and Apex it also
replaces the optimizer, which could not be resumed, and mends what else breaks without them. It fits this version
exactly: keep the version pinned.

Alternatives that were tried and are worse: a TorchFunctionMode (2 to 15 % slower at small sizes), renaming
privateuse1 (refused by torch), patching torch's own names (breaks torch.compile and every other user of
torch), rewriting Megatron-Core's source on import (tracebacks show other code than runs).
"""

import contextlib
import functools
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from model.optim.adamw import FusedAdamW

_CPU = torch.device("cpu")


@functools.cache
def install() -> None:
    """Make `megatron.core` importable and trainable here. Call it before the first import of `megatron.core`."""
    warnings.filterwarnings("ignore", module=r"megatron\.core")  # each missing accelerator library warns on its own
    if not torch.cuda.is_available():
        assert "megatron.core" not in sys.modules, "megatron.core was imported before model.megatron.install()"
        sys.meta_path.insert(0, _MegatronFinder(_torch_on_cpu()))
        _patch_tensor_methods()
        _route_on_cpu()
    _use_resumable_adam()
    _mend_router()
    _look_up_groups_silently()


class _NullStream(contextlib.nullcontext[None]):
    """A CUDA stream or event where everything already happens in order."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __getattr__(self, name: str) -> Callable[..., "_NullStream"]:
        return lambda *_, **__: self


def _namespace(module: types.ModuleType, **changes: Any) -> types.ModuleType:
    """Return a copy of a module's namespace with some names changed; what the copy lacks comes from the module."""
    copy = types.ModuleType(module.__name__)
    copy.__dict__.update(module.__dict__)
    copy.__dict__.update(changes)
    copy.__dict__["__getattr__"] = lambda name: getattr(module, name)
    return copy


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        if str(kwargs.get("device")).startswith("cuda"):
            kwargs["device"] = _CPU
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return make


def _torch_on_cpu() -> types.ModuleType:
    stream = _NullStream()
    cuda = _namespace(
        torch.cuda,
        current_device=lambda: _CPU,
        synchronize=lambda *_: None,
        Stream=_NullStream,
        Event=_NullStream,
        stream=lambda *_: stream,
        current_stream=lambda *_: stream,
        manual_seed=torch.manual_seed,
        get_rng_state=lambda *_, **__: torch.get_rng_state(),
    )
    factories = {name: _on_cpu(getattr(torch, name)) for name in ("tensor", "zeros", "ones", "empty")}
    return _namespace(torch, cuda=cuda, **factories)


class _MegatronFinder(importlib.abc.MetaPathFinder):
    """Binds the name `torch` of every `megatron.core` module, after it ran, to the CPU namespace."""

    def __init__(self, namespace: types.ModuleType) -> None:
        self.namespace = namespace

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith("megatron.core"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader.exec_module = self._bind_after(spec.loader.exec_module)  # type: ignore[method-assign, assignment]
        return spec

    def _bind_after(self, execute: Callable[[types.ModuleType], None]) -> Callable[[types.ModuleType], None]:
        def execute_and_bind(module: types.ModuleType) -> None:
            execute(module)
            if module.__dict__.get("torch") is torch:
                module.__dict__["torch"] = self.namespace
            if module.__name__ == "megatron.core.jit":
                module.__dict__["disable_jit_fuser"]()  # it is torch.compile, which needs a C++ compiler at run time
            if module.__name__ == "megatron.core.tensor_parallel.random":
                module.__dict__["_get_cuda_rng_state"] = lambda *_, **__: torch.get_rng_state()
                module.__dict__["_set_cuda_rng_state"] = lambda state, *_, **__: torch.set_rng_state(state)

        return execute_and_bind


def _patch_tensor_methods() -> None:
    tensor_type = torch.Tensor.type

    def type_as_on_cuda(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = tensor_type(self, *args, **kwargs)
        asked_for_name = not args and not kwargs
        return result.replace("torch.", "torch.cuda.", 1) if asked_for_name and "cuda" not in result else result

    torch.Tensor.type = type_as_on_cuda  # type: ignore[method-assign, assignment]
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]


def _route_on_cpu() -> None:
    """Let the dispatcher of tokens have its split sizes as NumPy arrays, which it makes of CUDA tensors alone."""
    from megatron.core.transformer.moe import token_dispatcher

    def sizes(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:  # noqa: ARG001 - its signature
        return tensor.numpy() if as_numpy and isinstance(tensor, torch.Tensor) else tensor

    token_dispatcher.maybe_move_tensor_to_cpu = sizes


def _mend_router() -> None:
    """Define the name of Transformer Engine's GEMM that a float32 router looks for; None makes it use torch's."""
    from megatron.core.transformer.moe import moe_utils

    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None


def _look_up_groups_silently() -> None:
    """Drop warnings of Megatron-Core's utilities: one in every row-parallel layer breaks the graph of torch.compile."""
    from megatron.core import utils

    utils.warnings = types.SimpleNamespace(warn=lambda *_, **__: None)


def _use_resumable_adam() -> None:
    """Replace torch's AdamW, the fallback without Apex, whose state DistributedOptimizer cannot restore."""
    import megatron.core.optimizer as optimizer
    from megatron.core.optimizer import distrib_optimizer

    if optimizer.USING_PYTORCH_OPTIMIZER:
        optimizer.Adam = distrib_optimizer.Adam = FusedAdamW
        optimizer.USING_PYTORCH_OPTIMIZER = False
        distrib_optimizer.HAVE_APEX_OR_TE = distrib_optimizer.USING_APEX_OPTIMIZER = True
