"""Samples: one line a document or question, with every number that a reported value rests on."""

from typing import Any

from evals.compression import COMPRESSORS, compressed_sizes
from evals.documents import Document
from evals.questions import Question
from evals.recompute import POOLED, Sample
from evals.unigram import Unigram


def of_documents(
    documents: list[Document], scored: list[dict[str, Any]], tokens: list[list[int]], unigram: Unigram, threads: int
) -> list[Sample]:
    """Join lm-eval's samples of a bits-per-byte task with the baselines on the same documents, in their order."""
    scores = {sample["doc"]["id"]: sample["bits_per_byte"] for sample in scored}
    sizes = compressed_sizes([document.data for document in documents], threads)
    return [
        _of_document(document.id, scores[document.id], document_tokens, unigram, document_sizes)
        for document, document_tokens, document_sizes in zip(documents, tokens, sizes, strict=True)
    ]


def _of_document(
    identifier: str, score: tuple[float, int], tokens: list[int], unigram: Unigram, sizes: dict[str, int]
) -> Sample:
    log_likelihood, size = score
    return {
        "id": identifier,
        "bytes": size,
        "tokens": len(tokens),
        "log_likelihood": log_likelihood,
        "unigram_nats": unigram.nats(tokens),
        **{f"{name}_bytes": compressed for name, compressed in sizes.items()},
    }


def of_concatenations(documents: dict[str, list[Document]]) -> list[Sample]:
    """Compress each domain's documents in one piece, in the order of the tasks, and then those of all domains."""
    pieces = {domain: b"".join(document.data for document in chosen) for domain, chosen in documents.items()}
    pieces[POOLED] = b"".join(pieces.values())
    return [
        {"domain": domain, "bytes": len(data), **{f"{name}_bytes": size(data) for name, size in COMPRESSORS.items()}}
        for domain, data in pieces.items()
    ]


def of_questions(questions: list[Question], scored: list[dict[str, Any]]) -> list[Sample]:
    """Take from lm-eval's samples of a continuation task what its verdicts rest on."""
    samples = {sample["doc"]["id"]: sample for sample in scored}
    return [_of_question(question, samples[question.id]) for question in questions]


def _of_question(question: Question, sample: dict[str, Any]) -> Sample:
    return {
        "id": question.id,
        "document": question.document,
        "gold": question.gold,
        "log_likelihoods": [log_likelihood for log_likelihood, _ in sample["filtered_resps"]],
        "characters": [len(choice) for choice in question.choices],
        "correct": sample["acc"] == 1,
        "correct_norm": sample["acc_norm"] == 1,
    }
