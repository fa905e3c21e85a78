"""All tests share a process with megatron.core, which must be imported after `install`."""

from model import megatron

megatron.install()
