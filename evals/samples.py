"""Samples: one line a document or question, with every number that a reported value rests on."""

from pathlib import Path
from typing import Any

from evals.baselines import Baselines
from evals.compression import compressed_size
from evals.documents import Document
from evals.questions import HeldOut, Question
from evals.recompute import BITS_PER_BYTE, CONCATENATED, CONTINUATION, POOLED, Sample
from stages.files import write_jsonl


def write(folder: Path, held_out: HeldOut, scored: dict[str, list[dict[str, Any]]], baselines: Baselines) -> None:
    """Join lm-eval's samples by task with the baselines, and write the files that `evals.recompute` describes."""
    for domain, documents in held_out.documents.items():
        name = f"{BITS_PER_BYTE}{domain}"
        write_jsonl(folder / f"{name}.jsonl", _of_documents(documents, scored[name], baselines))
    write_jsonl(folder / f"{CONCATENATED}.jsonl", _of_concatenations(held_out.documents))
    for domain, questions in held_out.questions.items():
        name = f"{CONTINUATION}{domain}"
        write_jsonl(folder / f"{name}.jsonl", _of_questions(questions, scored[name]))


def _of_documents(documents: list[Document], scored: list[dict[str, Any]], baselines: Baselines) -> list[Sample]:
    scores = {sample["doc"]["id"]: sample["bits_per_byte"] for sample in scored}
    samples = []
    for document, others in zip(documents, baselines.of(documents), strict=True):
        log_likelihood, size = scores[document.id]
        samples.append({"id": document.id, "bytes": size, "log_likelihood": log_likelihood, **others})
    return samples


def _of_concatenations(documents: dict[str, list[Document]]) -> list[Sample]:
    """Compress each domain's documents in one piece, in the order of the tasks, and then those of all domains."""
    pieces = {domain: b"".join(document.data for document in chosen) for domain, chosen in documents.items()}
    pieces[POOLED] = b"".join(pieces.values())
    return [{"domain": domain, "bytes": len(data), **compressed_size(data)} for domain, data in pieces.items()]


def _of_questions(questions: list[Question], scored: list[dict[str, Any]]) -> list[Sample]:
    answers = {sample["doc"]["id"]: sample for sample in scored}
    return [_of_question(question, answers[question.id]) for question in questions]


def _of_question(question: Question, answer: dict[str, Any]) -> Sample:
    return {
        "id": question.id,
        "document": question.document,
        "gold": question.gold,
        "log_likelihoods": [log_likelihood for log_likelihood, _ in answer["filtered_resps"]],
        "characters": [len(choice) for choice in question.choices],
        "correct": answer["acc"] == 1,
        "correct_norm": answer["acc_norm"] == 1,
    }
