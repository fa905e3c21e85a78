"""A small but real run to release: a git repository with a graph's files and the outputs of every stage."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evals import tasks
from evals.documents import Document
from evals.questions import Question
from evals.recompute import results_from_samples
from model.data import mixture
from model.families.llama import Llama
from model.job import Job, Shards
from model.settings import PretrainSettings
from release import layout, lock
from stages.corpus.documents import document_id, text_digest
from stages.curation.benchmarks import Checked, Manifest
from stages.files import sha256_file, write_json, write_jsonl

TEXT = "A document of the tests.\n" * 4
READ = f"{TEXT} "  # as the snapshot has it: curation edits texts, and leaves their ids
DOCUMENTS = 3  # in a domain of a split
SPLITS = ("train", "validation", "test")
SOURCES = {"stdlib": ("code", "Python-2.0.1"), "pages": ("prose", "MIT")}
WHO = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in {"NAME": "T", "EMAIL": "t@example.org", "DATE": "2020-01-01T00:00:00Z"}.items()
}
RELEASE = {
    "name": "tiny",
    "version": "0.1.0",
    "description": "A tiny model for tests.",
    "organisation": "Testers",
    "contact": "https://example.org",
    "repository": None,
    "license": "Apache-2.0",
    "license_file": "LICENSE",
    "languages": ["en"],
    "tags": ["openbase"],
}
PUBLISH = {
    "target": "local",
    "secrets_reviewed": [],
    "local": {"registry": "out/publish/registry", "move_version": False},
    "hub": {
        "repo_id": None,
        "revision": "main",
        "tag": None,
        "private": False,
        "xet": False,
        "timeout_seconds": 10,
        "move_version": False,
    },
}


def make(root: Path) -> None:
    """Write the run below `root`, and commit its source."""
    out = root / "out"
    _model(out / "export" / "model")
    _corpus(out)
    _training(out)
    _evaluation(out / "evaluate")
    source(root)
    write_lock(root)


def source(root: Path) -> None:
    """Write and commit the files of the repository."""
    params = {
        "snapshot": {"licenses": {"allow": ["MIT", "Python-2.0.1"]}},
        "curate": {"chains": {"code": {"steps": [{"step": "pii", "policies": {"email": "mask"}}]}}},
        "evaluate": {"tasks": [], "uncovered_tasks": "refuse"},
        "pretrain": {"steps": 4, "optimizer": {"learning_rate": 1e-3}},
        "release": RELEASE,
        "publish": PUBLISH,
    }
    write_yaml(root / "params.yaml", params)
    write_yaml(root / "dvc.yaml", {"stages": {"pretrain": {"cmd": "python -m stages.pretrain"}}})
    (root / "requirements.lock").write_text("numpy==2.4.6\n")
    (root / "LICENSE").write_text("Apache License, Version 2.0\n")
    (root / ".gitignore").write_text("/out/\n")
    (root / "stages").mkdir()
    (root / "stages" / "pretrain.py").write_text("print('train')\n")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "stages" / "link.py").symlink_to("pretrain.py")
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=Start")


def git(root: Path, *arguments: str) -> str:
    """Run git in `root` as a person whose clock stands still."""
    done = subprocess.run(
        ["git", *arguments], cwd=root, env=os.environ | WHO, capture_output=True, text=True, check=True
    )
    return done.stdout


def write_yaml(path: Path, value: Any) -> None:
    """Write YAML."""
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(value, file)


def write_lock(root: Path) -> None:
    """Write the dvc.lock that DVC would have written for these outputs."""

    def out(path: str) -> dict[str, Any]:
        here = root / path
        if here.is_dir():
            files = {file.relative_to(here).as_posix(): file for file in here.rglob("*") if file.is_file()}
            return {"path": path, "hash": "md5", "md5": lock.md5_directory(files)}
        return {"path": path, "hash": "md5", "md5": lock.md5_file(here)}

    sources = [layout.MODEL, *layout.DIRECTORIES.values(), *layout.FILES.values()]
    code = {"path": "stages/pretrain.py", "hash": "md5", "md5": lock.md5_file(root / "stages" / "pretrain.py")}
    stages: dict[str, Any] = {
        path.parts[1]: {"cmd": "x", "deps": [code], "outs": []} for path in sorted(sources, reverse=True)
    }
    for path in sources:
        stages[path.parts[1]]["outs"].append(out(path.as_posix()))
    stages["pretrain"]["params"] = {"params.yaml": {"pretrain.optimizer.learning_rate": 1e-3, "pretrain.steps": 4}}
    stages["publish"] = {"cmd": "y"}
    write_yaml(root / "dvc.lock", {"schema": "2.0", "stages": stages})


def _model(folder: Path) -> None:
    vocabulary = {
        token: index
        for index, token in enumerate(["<|endoftext|>", "<|padding|>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    make_fast: Any = PreTrainedTokenizerFast
    fast = make_fast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|padding|>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def _corpus(out: Path) -> None:
    splits: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    for split in SPLITS:
        splits[split] = {domain: _shard(out, split, source) for source, (domain, _) in SOURCES.items()}
        kept[split] = {"documents": 2 * DOCUMENTS, "bytes": 2 * DOCUMENTS * len(TEXT)}
    sources = {
        name: {
            "settings": {"domain": domain},
            "sha256": "0" * 64,
            "documents": 7,
            "bytes": 700,
            "licenses": {expression: {"documents": 7, "bytes": 700}},
            "refused": {"license_not_allowed": {"documents": 1, "bytes": 9}},
        }
        for name, (domain, expression) in SOURCES.items()
    }
    write_json(out / "snapshot" / "manifest.json", {"sources": sources})
    write_jsonl(out / "snapshot" / "refused.jsonl", [{"source": "stdlib", "reason": "license_not_allowed"}])
    write_json(out / "curate" / "report.json", _report(kept))
    manifest = Manifest(ngram=13, benchmarks={"arc": Checked(sha256="4" * 64, tasks=("arc_*",), rows=9, short_rows=1)})
    write_json(out / "curate" / "contamination.json", manifest.model_dump(mode="json"))
    write_jsonl(out / "curate" / "contaminated.jsonl", [{"benchmark": "arc", "row": "test.jsonl:3", "action": "cut"}])
    write_json(out / "curate" / "classifiers" / "index.json", {})
    (out / "snapshot" / "references").mkdir()
    write_jsonl(out / "curate" / "dropped.jsonl", [{"reason": "length"}])
    tokenizer = {"sha256": sha256_file(out / "export" / "model" / "tokenizer.json")}
    write_json(out / "shards" / "index.json", {"tokenizer": tokenizer, "splits": splits})
    write_json(out / "shards" / "funnel.json", {"kept": {split: _tokens(splits[split]) for split in SPLITS}})


def _tokens(domains: dict[str, Any]) -> dict[str, Any]:
    """Return a split's counts; every source has a domain and a license of its own."""
    by: dict[str, Any] = {"source": {}, "domain": {}, "license": {}}
    for source, (domain, expression) in SOURCES.items():
        count = {name: domains[domain][name] for name in ("documents", "bytes", "tokens")}
        for group, value in zip(by, (source, domain, expression), strict=True):
            by[group][value] = count
    totals = {name: sum(count[name] for count in by["source"].values()) for name in ("documents", "bytes", "tokens")}
    return {**totals, "by": by}


def _report(kept: dict[str, Any]) -> dict[str, Any]:
    """Return the report of curation: two documents of `stdlib` were too short."""
    of_split = {"documents": DOCUMENTS, "bytes": DOCUMENTS * len(TEXT)}
    groups = {"domain": [domain for domain, _ in SOURCES.values()], "source": list(SOURCES)}
    by = {group: dict.fromkeys(names, of_split) for group, names in groups.items()}
    by["language"] = {"unknown": {"documents": 2 * DOCUMENTS, "bytes": 2 * DOCUMENTS * len(TEXT)}}

    def way(dropped: int) -> list[dict[str, Any]]:
        left = {"documents": 3 * DOCUMENTS, "bytes": 3 * DOCUMENTS * len(TEXT)}
        short = {"documents": dropped, "bytes": 10 * dropped}
        entered = {"documents": left["documents"] + dropped, "bytes": left["bytes"] + 10 * dropped}
        return [{"step": "length", "entered": entered, "dropped": short, "left": left}]

    return {
        "kept": {split: {**count, "by": by} for split, count in kept.items()},
        "dropped": {"length": {"documents": 2, "bytes": 20}},
        "funnel": {"by": {group: dict(zip(names, (way(2), way(0)), strict=True)) for group, names in groups.items()}},
        "contamination": {"arc": {"rows": 1, "documents": {"cut": 1}}},
        "opt_outs": {"letters": {"documents": 1, "bytes": 30}},
        "clusters": [{"documents": 2, "clusters": 3}],
    }


def _shard(out: Path, split: str, source: str) -> dict[str, Any]:
    domain, expression = SOURCES[source]
    rows = [
        {
            "id": document_id(source, f"{split}/{number}", text_digest(READ)),
            "source": source,
            "license": expression,
            "origin": f"{split}/{number}",
            "sha256": text_digest(TEXT),
            "tokens": 10,
            "bytes": len(TEXT),
        }
        for number in range(DOCUMENTS)
    ]
    path = out / "shards" / "tokens" / split / f"{domain}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    totals = {"documents": DOCUMENTS, "tokens": 10 * DOCUMENTS, "bytes": len(TEXT) * DOCUMENTS}
    return {**totals, "files": {path.name: sha256_file(path)}}


STEPS, BATCH, SEQ_LENGTH = 4, 4, 25


def job() -> Job:
    """Return what was trained."""
    blend = {domain: 0.5 for domain, _ in SOURCES.values()}
    phase = {"tokens": STEPS * BATCH * SEQ_LENGTH, "blend": blend, "global_batch_size": BATCH}
    pretrain = {
        "device": "cpu",
        "precision": "float32",
        "num_threads": 1,
        "weight_seed": 0,
        "data_seed": 0,
        "phases": {"main": phase},
        "micro_batch_size": 4,
        "schedule": {"style": "constant", "learning_rate": 1e-3, "min_learning_rate": 0.0, "warmup_steps": 0},
        "optimizer": {"weight_decay": 0.1},
        "eval_interval": 4,
        "eval_sequences": 1,
        "checkpoint_interval": 4,
    }
    model = Llama(
        num_layers=2,
        hidden_size=16,
        ffn_hidden_size=32,
        num_attention_heads=2,
        num_query_groups=2,
        seq_length=SEQ_LENGTH,
    )
    shards = Shards(
        digest="1" * 64, tokens="t", tokenizer="j", tokenizer_sha256="1" * 64, vocab_size=258, end_of_document=0, pad=1
    )
    return Job(model=model, pretrain=PretrainSettings(**pretrain), shards=shards, versions={})  # type: ignore[arg-type]


def _training(out: Path) -> None:
    validation = {"loss": 2.5, "bits_per_byte": 2.25}
    rows = [{"step": step, "tokens": 100 * step, "loss": 3.0, "learning_rate": 1e-3} for step in range(1, STEPS + 1)]
    write_jsonl(out / "pretrain" / "log.jsonl", [*rows[:-1], rows[-1] | {"validation": validation}])
    pieces = [
        {"step": step, "sample": 0, "domain": "code", "document": piece % DOCUMENTS, "start": 0, "end": 10}
        for step in range(1, STEPS + 1)
        for piece in range(BATCH * SEQ_LENGTH // 10)
    ]
    pq.write_table(pa.Table.from_pylist(pieces), out / "pretrain" / "documents.parquet")
    train = out / "shards" / "tokens" / "train"
    write_json(out / "pretrain" / "mixture.json", mixture.read(job(), out / "pretrain" / "documents.parquet", train))
    weights = load_file(out / "export" / "model" / "model.safetensors")
    metrics = {
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "steps": 4,
        "tokens": 400,
        "train_loss": 3.0,
        "validation_loss": 2.5,
        "validation_bits_per_byte": 2.25,
    }
    write_json(out / "pretrain" / "metrics.json", metrics)
    run = {
        "environment": {"python": "3.11", "packages": {"torch": "2.13.0"}},
        "settings": job().model_dump(mode="json"),
        "weights": {"initial": "2" * 64, "final": "3" * 64},
    }
    write_json(out / "pretrain" / "run.json", run)
    parity = {
        "tokens": 64,
        "max_abs_logit_difference": 1e-6,
        "loss_difference": 1e-7,
        "limits": {"max_abs_logit_difference": 1e-4, "loss_difference": 1e-5},
        "weights_sha256": {"model.safetensors": sha256_file(out / "export" / "model" / "model.safetensors")},
    }
    write_json(out / "export" / "parity.json", parity)


def _evaluation(folder: Path) -> None:
    samples = folder / "samples"
    (folder / "tasks").mkdir(parents=True)
    names = []
    for source, (domain, _) in SOURCES.items():
        origins = [f"test/{number}" for number in range(DOCUMENTS)]
        identifiers = [document_id(source, origin, text_digest(READ)) for origin in origins]
        documents = [Document(each, domain, text_digest(TEXT), TEXT) for each in identifiers]
        names.append(tasks.write_bits_per_byte(folder / "tasks", domain, documents))
        choices = ["a", "b", "c", "d"]
        questions = [Question(f"{each}-q", each, "A", choices, gold) for gold, each in enumerate(identifiers)]
        names.append(tasks.write_continuation(folder / "tasks", domain, questions))
        sizes = {"bytes": len(TEXT), "tokens": 30, "unigram_nats": 300.0, "xz_bytes": 60, "zstd_bytes": 62}
        rows = [{"id": each, "log_likelihood": -180.0 - index, **sizes} for index, each in enumerate(identifiers)]
        write_jsonl(samples / f"bits_per_byte_{domain}.jsonl", rows)
        answer = {"log_likelihoods": [-1.0, -2.0, -3.0, -4.0], "characters": [1, 1, 1, 1]}
        answers = [{"id": each.id, "document": each.document, "gold": each.gold, **answer} for each in questions]
        write_jsonl(samples / f"continuation_{domain}.jsonl", answers)
    joined = {"bytes": DOCUMENTS * len(TEXT), "xz_bytes": 150, "zstd_bytes": 155}
    write_jsonl(samples / "concatenated.jsonl", [{"domain": domain, **joined} for domain in ("code", "prose", "all")])
    digests = {name: tasks.definition_digest(folder / "tasks", name) for name in names}
    definitions = {name: {"version": 1, "sha256": digest} for name, digest in digests.items()}
    harness = {"lm_eval": "0.4.13", "transformers": "5.23.0", "tasks": definitions}
    coverage: dict[str, Any] = {"asked": {}, "covered": {}, "uncovered_tasks": []}
    about = {"harness": harness, "benchmarks": {}, "coverage": coverage}
    write_json(folder / "results.json", {**results_from_samples(samples), **about})


def read(path: Path) -> Any:
    """Parse JSON."""
    return json.loads(path.read_text(encoding="utf-8"))
