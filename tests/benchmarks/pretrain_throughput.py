"""Our training step against `transformers`: `python -m tests.benchmarks.pretrain_throughput [--threads N] [--steps N]`.

Both train the default model of params.yaml in float32 on the same random batches from the same weights with fused AdamW
and clipping, in turns in one process, so that a busy machine slows both. The losses must agree, or nothing is compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaForCausalLM

from model import parallel
from model.data import Batch
from model.llama import llama_config, to_llama
from model.settings import LayoutSettings, ModelSettings, PretrainSettings
from model.trainer import Trainer
from stages.settings import load

VOCAB_SIZE = 4096


def main() -> None:
    """Measure and print tokens per second of both, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args()
    model = load("model", ModelSettings)
    settings = load("pretrain", PretrainSettings).model_copy(update={"layout": LayoutSettings()})
    with parallel.processes(settings.layout, "cpu", chosen.threads, seed=0) as device:
        trainer = Trainer(model, settings, VOCAB_SIZE, device)
        peer = Transformers(trainer, model, settings)
        compare({"openbase": trainer.step, "transformers": peer.step}, model, settings, chosen.steps)


class Transformers:
    """LlamaForCausalLM, eager, with SDPA, torch's fused AdamW and the same schedule of rates."""

    def __init__(self, trainer: Trainer, model: ModelSettings, settings: PretrainSettings) -> None:
        config = llama_config(model, VOCAB_SIZE, end_of_document=0, pad=1)
        self._trainer = trainer
        self._clip = settings.optimizer.clip_grad
        self.model: Any = LlamaForCausalLM(config)
        weights = dict(to_llama(trainer.model.state_dict(), model, VOCAB_SIZE))
        self.model.load_state_dict(weights, strict=not model.share_embeddings_and_output_weights)
        matrices = [weight for weight in self.model.parameters() if weight.dim() > 1]
        norms = [weight for weight in self.model.parameters() if weight.dim() == 1]
        chosen = settings.optimizer
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": chosen.weight_decay}, {"params": norms, "weight_decay": 0.0}],
            lr=chosen.learning_rate,
            betas=(chosen.adam_beta1, chosen.adam_beta2),
            eps=chosen.adam_eps,
            fused=True,
        )

    def step(self, batches: Any) -> tuple[float, float]:
        """Take the step that the trainer took before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._trainer.learning_rate
        self.optimizer.zero_grad()
        losses = []
        for tokens, labels, _ in batches:
            logits = self.model(tokens).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
            loss.backward()
            losses.append(loss.item())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
        self.optimizer.step()
        return statistics.mean(losses), float(norm)


def compare(
    steps: dict[str, Callable[[Any], tuple[float, float]]], model: ModelSettings, settings: PretrainSettings, count: int
) -> None:
    """Run the steps in turns, check that they train alike, and print their speed."""
    assert settings.num_microbatches == 1, "the peer does not accumulate gradients"
    generator = torch.Generator().manual_seed(0)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(count + 3):  # three to warm up
        batch = random_batch(settings.global_batch_size, model.seq_length, generator)
        losses = {}
        for name, step in steps.items():
            started = time.perf_counter()
            losses[name], _ = step(iter([batch]))
            seconds[name].append(time.perf_counter() - started)
        assert abs(losses["openbase"] - losses["transformers"]) < 1e-4, (turn, losses)
    tokens = settings.global_batch_size * model.seq_length
    rates = {name: tokens / statistics.median(times[3:]) for name, times in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:>14}: {rate:8.0f} tokens/s (median of {count} steps)")
    print(f"{'ratio':>14}: {rates['openbase'] / rates['transformers']:8.2f}")


def random_batch(size: int, seq_length: int, generator: torch.Generator) -> Batch:
    """Return tokens, labels and positions `[b, s]`."""
    tokens = torch.randint(0, VOCAB_SIZE, (size, seq_length + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:], torch.arange(seq_length).expand(size, -1)


if __name__ == "__main__":
    main()
