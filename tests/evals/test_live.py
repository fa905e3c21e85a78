"""A model in training answers as lm-eval's Hugging Face backend does for the same weights."""

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from evals.questions import ContinuationSettings, HeldOut, ask
from evals.tasks import write
from model import parallel
from model.checkpoints import checkpoint
from model.convert.from_transformers import read_transformers
from model.data.batches import Batch
from model.families.llama import Llama
from model.initialize import initialize
from model.job import Job
from model.layout import LayoutSettings
from model.network.build import build_model
from model.network.loss import token_scores
from model.settings import LiveTasks
from model.trainer import Trainer
from stages.errors import UserError
from stages.files import read_json, write_json
from tests.evals import world
from tests.model import jobs
from tests.model.two_processes import TwoProcesses

if TYPE_CHECKING:
    from evals.harness import Outcome
    from evals.live import LiveModel, Scores

CPU = torch.device("cpu")
MODEL = Llama(
    num_layers=2,
    hidden_size=32,
    ffn_hidden_size=64,
    num_attention_heads=2,
    num_query_groups=2,
    seq_length=world.CONTEXT,
    layernorm_epsilon=1e-6,
)
"""What `world.write_model` writes."""
VOCAB_SIZE = 384
TASKS = ["bits_per_byte_code", "continuation_code"]
DOCUMENTS = world.documents("code", world.texts("json"))
QUESTIONS = ask(DOCUMENTS, ContinuationSettings(questions=12, lines=2, choice_bytes=96, context_bytes=160), seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, and tasks."""
    root = tmp_path_factory.mktemp("live")
    tokenizer = world.write_tokenizer(root / "model", world.texts("json"))
    world.write_model(root / "model", len(tokenizer))
    write(root / "tasks", HeldOut({"code": DOCUMENTS}, {"code": QUESTIONS}))
    return root


@pytest.fixture(scope="module")
def outcome(folder: Path) -> "Outcome":
    """What lm-eval's own backend says of the model."""
    from evals import harness

    model = harness.Model(folder / "model", device="cpu", dtype="float32", batch_size=4, threads=1)
    return harness.run(model, folder / "tasks", TASKS, [], None)


@pytest.fixture(scope="module")
def scores(folder: Path) -> Iterator["Scores"]:
    """The same model as Megatron-Core's."""
    job = jobs.job(folder / "model" / "tokenizer.json", MODEL, VOCAB_SIZE)
    with parallel.processes(LayoutSettings(), "cpu", num_threads=1, seed=0):
        yield scores_of(job, folder / "model")


def scores_of(job: Job, folder: Path) -> "Scores":
    decoder = build_model(job.model, LayoutSettings(), job.shards.vocab_size).eval()
    read_transformers(folder, job, decoder)

    @torch.no_grad()
    def scores(batches: Iterator[Batch]) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        for batch in batches:
            logits = decoder(batch.tokens, batch.positions, None)
            yield batch.labels, *token_scores(logits, batch.labels, job.shards.vocab_size)

    return scores


@pytest.fixture
def live(scores: "Scores", folder: Path) -> "LiveModel":
    from evals.live import LiveModel

    return LiveModel(scores, folder / "model", world.CONTEXT, 5, CPU)


def evaluate(scores: "Scores", folder: Path, **changes: Any) -> dict[str, dict[str, float]]:
    from evals.live import evaluate_live

    tasks = LiveTasks(tasks=TASKS, include_path=str(folder / "tasks"), limit=1000, interval=1)
    with contextlib.chdir(folder / "tasks"):  # the tasks name their data from there
        return evaluate_live(
            scores, folder / "model" / "tokenizer.json", tasks.model_copy(update=changes), world.CONTEXT, 5, CPU
        )


def requests(samples: list[dict[str, Any]]) -> list[Any]:
    return [SimpleNamespace(args=tuple(arguments)) for sample in samples for arguments in sample["arguments"]]


def test_continuations_have_the_log_likelihoods_of_the_exported_model(live: "LiveModel", outcome: "Outcome") -> None:
    samples = outcome.samples["continuation_code"]
    theirs = [answer for sample in samples for answer in sample["filtered_resps"]]
    ours = live.loglikelihood(requests(samples))
    assert len(ours) == 4 * len(QUESTIONS)
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_whole_documents_have_the_log_likelihoods_of_the_exported_model(live: "LiveModel", outcome: "Outcome") -> None:
    samples = outcome.samples["bits_per_byte_code"]
    theirs = [sample["bits_per_byte"][0] for sample in samples]
    assert live.loglikelihood_rolling(requests(samples)) == pytest.approx(theirs, rel=1e-6)
    assert max(len(live.tok_encode(sample["doc"]["text"])) for sample in samples) > world.CONTEXT


def test_metrics_are_those_of_the_exported_model(scores: "Scores", folder: Path, outcome: "Outcome") -> None:
    found = evaluate(scores, folder)
    assert set(found) == set(TASKS)
    for name, metrics in found.items():
        theirs = {key.removesuffix(",none"): value for key, value in outcome.results[name].items() if "," in key}
        assert metrics == pytest.approx({key: theirs[key] for key in metrics}, rel=1e-6)
        assert set(metrics) == {key for key in theirs if "stderr" not in key}
    assert 0 < found["continuation_code"]["acc"] < 1


def test_a_greedy_continuation_is_called_greedy(live: "LiveModel", scores: "Scores") -> None:
    context = live.tok_encode("def main(")
    tokens = torch.tensor([context])
    batch = Batch(tokens, tokens, torch.arange(len(context))[None], None)
    candidates = (
        Batch(batch.tokens, torch.full_like(tokens, token), batch.positions, None) for token in range(VOCAB_SIZE)
    )
    (likeliest,) = (token for token, (_, _, greedy) in enumerate(scores(candidates)) if greedy[0, -1])
    answers = live._loglikelihood_tokens([(("", ""), context, [token]) for token in (likeliest, likeliest - 1)])
    assert [greedy for _, greedy in answers] == [True, False]


def test_a_long_context_loses_its_start(live: "LiveModel") -> None:
    long = list(range(2, 252)) * 2
    (whole,) = live._loglikelihood_tokens([(("", ""), long, [7, 8, 9])])
    (cut,) = live._loglikelihood_tokens([(("", ""), long[-(world.CONTEXT - 2) :], [7, 8, 9])])
    (shorter,) = live._loglikelihood_tokens([(("", ""), long[-(world.CONTEXT - 3) :], [7, 8, 9])])
    assert whole == cut != shorter


def test_a_run_is_left_as_it_was(scores: "Scores", folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.Random(1).random(), np.random.RandomState(1).rand(), torch.get_rng_state()
    first, second = evaluate(scores, folder, limit=3), evaluate(scores, folder, limit=3)
    assert first == second
    assert (random.random(), np.random.rand()) == expected[:2]
    assert torch.equal(torch.get_rng_state(), expected[2])
    assert capfd.readouterr() == ("", "")
    assert sorted(folder.rglob("*")) == before


def write_generation(folder: Path) -> None:
    (folder / "writing.yaml").write_text(
        "task: writing\noutput_type: generate_until\ndataset_path: json\n"
        "dataset_kwargs: {data_files: {test: continuation_code.jsonl}}\ntest_split: test\n"
        "doc_to_text: context\ndoc_to_target: gold\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )


@pytest.mark.e2e  # the index of lm-eval's tasks takes ten seconds
@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["writing"], r"pretrain\.eval_tasks\.tasks: 'writing' has the model write text"),
        (["elsewhere"], r"pretrain\.eval_tasks\.tasks: data of elsewhere is not on this machine"),
    ],
)
def test_a_task_that_cannot_be_run_is_refused_by_name(
    scores: "Scores", folder: Path, tasks: list[str], message: str
) -> None:
    write_generation(folder / "tasks")
    yaml = (folder / "tasks" / "continuation_code.yaml").read_text()
    elsewhere = yaml.replace("continuation_code.jsonl", "nowhere.jsonl").replace(
        "task: continuation_code", "task: elsewhere"
    )
    (folder / "tasks" / "elsewhere.yaml").write_text(elsewhere)
    with pytest.raises(UserError, match=message):
        evaluate(scores, folder, tasks=tasks)


def test_a_text_longer_than_a_sequence_is_refused(live: "LiveModel") -> None:
    with pytest.raises(UserError, match=r"a continuation of 300 tokens is to be scored, more than the 256"):
        live._loglikelihood_tokens([(("", ""), [1], [2] * 300)])


def evaluate_split(folder: str, layout: LayoutSettings) -> None:
    """Evaluate the model on one of two ranks."""
    root = Path(folder)
    start = {"kind": "huggingface", "path": str(root / "model")}
    job = jobs.job(root / "model" / "tokenizer.json", MODEL, VOCAB_SIZE, start)
    if os.environ["RANK"] == "0":
        initialize(job, root)
    job = job.model_copy(update={"pretrain": job.pretrain.model_copy(update={"layout": layout})})
    with parallel.processes(layout, "cpu", num_threads=1, seed=0) as device:
        trainer = Trainer(job, device)
        trainer.load_weights(checkpoint.load(root / "initial", trainer.weights_state_dict()))
        found = evaluate(trainer.token_scores, root, limit=5)
    write_json(root / f"{os.environ['RANK']}.json", found)


@pytest.mark.e2e
def test_every_rank_of_any_layout_has_the_same_metrics(scores: "Scores", folder: Path) -> None:
    one = evaluate(scores, folder, limit=5)
    two_processes = TwoProcesses()
    for layout in (LayoutSettings(tensor_model_parallel_size=2), LayoutSettings(context_parallel_size=2)):
        two_processes(evaluate_split, str(folder), layout)
        ranks = [read_json(folder / f"{rank}.json") for rank in range(2)]
        assert ranks[0] == ranks[1]
        for name, metrics in one.items():
            assert ranks[0][name] == pytest.approx(metrics, rel=1e-5)
    two_processes.close()
