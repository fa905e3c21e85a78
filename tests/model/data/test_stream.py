from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.data.index_cache import IndexCache
from model.data.stream import Spans, Stream

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)
MEMORY = IndexCache(Path("unused"))


def stream_of(lengths: list[int], seq_length: int, domain: str = "code", seed: int = 5) -> Stream:
    return Stream(np.array(lengths, np.int32), domain, seq_length, seed, "digest", MEMORY)


def token_numbers(stream: Stream, spans: Spans) -> list[int]:
    """Return the place in the shard of each token of spans."""
    begins = np.cumsum(stream.lengths) - stream.lengths
    pieces = zip(spans.document, spans.start, spans.end, strict=True)
    return [int(begins[document]) + token for document, start, end in pieces for token in range(start, end)]


def every_window(stream: Stream, epochs: int) -> NDArray[np.int64]:
    """Return the windows that start in the first epochs."""
    return np.arange(-(-epochs * stream.tokens // stream.seq_length))


@settings(deadline=None)
@given(LENGTHS, st.integers(2, 50), st.integers(1, 4))
def test_every_token_is_a_label_exactly_once_an_epoch(lengths: list[int], seq_length: int, epochs: int) -> None:
    stream = stream_of(lengths, seq_length)
    windows = every_window(stream, epochs)
    labels = token_numbers(stream, stream.spans(windows * seq_length + 1, seq_length))
    assert len(labels) == len(windows) * seq_length
    everything = token_numbers(stream, stream.spans(np.array([0]), len(labels) + 1))
    assert everything[1:] == labels
    for epoch in range(epochs):
        of_epoch = everything[epoch * stream.tokens : (epoch + 1) * stream.tokens]
        assert sorted(of_epoch) == list(range(stream.tokens))


@settings(deadline=None)
@given(LENGTHS, st.integers(2, 50), st.integers(1, 4))
def test_samples_of_an_epoch_are_its_windows_in_another_order(lengths: list[int], seq_length: int, epochs: int) -> None:
    stream = stream_of(lengths, seq_length)
    before = len(every_window(stream, epochs - 1))
    windows = every_window(stream, epochs)[before:]
    assert sorted(stream.windows(windows)) == windows.tolist()


@settings(deadline=None)
@given(LENGTHS, st.integers(2, 50), st.lists(st.integers(0, 200), min_size=1, max_size=5))
def test_a_sample_is_the_same_alone_and_among_others(lengths: list[int], seq_length: int, samples: list[int]) -> None:
    stream = stream_of(lengths, seq_length)
    windows = stream.windows(np.array(samples))
    together = stream.spans(windows * seq_length, seq_length + 1)
    tokens = []
    for index, sample in enumerate(samples):
        window = stream_of(lengths, seq_length).windows(np.array([sample]))
        alone = stream.spans(window * seq_length, seq_length + 1)
        assert (alone.end - alone.start).sum() == seq_length + 1
        assert (together.window == index).sum() == len(alone.window)
        tokens += token_numbers(stream, alone)
    assert token_numbers(stream, together) == tokens


@settings(deadline=None)
@given(LENGTHS, st.integers(2, 50))
def test_spans_of_a_window_are_whole_documents_but_for_its_ends(lengths: list[int], seq_length: int) -> None:
    stream = stream_of(lengths, seq_length)
    windows = every_window(stream, 2)
    spans = stream.spans(windows * seq_length, seq_length + 1)
    assert (spans.start < spans.end).all()
    follows = spans.window[1:] == spans.window[:-1]
    assert (spans.start[1:][follows] == 0).all()
    assert (spans.end[:-1][follows] == stream.lengths[spans.document[:-1]][follows]).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**40), st.integers(1, 100))
def test_streams_beyond_32_bits_are_exact(sample: int, share: int) -> None:
    lengths = [2**31 - 1 - share, 2**31 - 1, share]
    stream = stream_of(lengths, 1 << 22)
    spans = stream.spans(np.array([sample * stream.seq_length]), stream.seq_length + 1)
    assert (spans.end - spans.start).sum() == stream.seq_length + 1
    epoch, offset = divmod(sample * stream.seq_length, sum(lengths))
    documents = stream.spans(np.array([epoch * sum(lengths)]), sum(lengths)).document.tolist()
    while offset >= lengths[documents[0]]:
        offset -= lengths[documents.pop(0)]
    assert (spans.document[0], spans.start[0]) == (documents[0], offset)


def test_seed_domain_length_and_epoch_each_make_another_order() -> None:
    lengths = list(range(1, 60))
    streams = [
        stream_of(lengths, 16),
        stream_of(lengths, 16, seed=6),
        stream_of(lengths, 16, domain="prose"),
        stream_of(lengths, 17),
    ]
    epoch = np.array([0, streams[0].tokens])
    orders = [
        tuple(spans.document[spans.window == part])
        for spans in (stream.spans(epoch, stream.tokens) for stream in streams)
        for part in (0, 1)
    ]
    assert len(set(orders)) == 8


def test_orders_are_those_of_earlier_releases() -> None:
    stream = stream_of([3, 1, 4, 1, 5, 9, 2, 6], 3)
    assert stream.spans(np.array([0, 31]), 31).document.tolist() == GOLDEN_DOCUMENTS
    assert stream.windows(np.arange(21)).tolist() == GOLDEN_WINDOWS


GOLDEN_DOCUMENTS = [7, 4, 6, 3, 2, 0, 5, 1, 1, 0, 5, 6, 2, 4, 7, 3]
GOLDEN_WINDOWS = [7, 0, 9, 4, 3, 1, 10, 6, 5, 8, 2, 17, 18, 11, 16, 14, 19, 20, 13, 12, 15]
