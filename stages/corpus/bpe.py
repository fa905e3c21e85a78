"""The tokenizer: byte-level BPE with Llama 3's pre-tokenizer, which llama.cpp calls `llama-bpe`."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from stages.corpus.documents import Document
from stages.errors import UserError

END_OF_DOCUMENT = "<|endoftext|>"
PADDING = "<|padding|>"

# The pattern of meta-llama/Meta-Llama-3-8B's tokenizer.json.
LLAMA_3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def empty() -> Tokenizer:
    """Return a byte-level BPE tokenizer that has no tokens yet."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA_3_PATTERN), behavior="isolated")
    bytes_as_characters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_as_characters])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Return a byte-level BPE tokenizer of `vocab_size` tokens; the special tokens have ids 0 and 1.

    The bytes of the result are a function of the texts and their number, not of the number of threads. As
    in Llama 3, and in llama.cpp's reading of it, a word that is itself a token is not put through the merges.

    Raises:
        UserError: The texts have too few different words for so many tokens.
    """
    tokenizer = empty()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_DOCUMENT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise UserError(
            f"tokenizer.vocab_size = {vocab_size} but the text yields only {tokenizer.get_vocab_size()} tokens. "
            "Lower it, or train on more text."
        )
    return tokenizer


def load(path: Path) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json; it encodes a special token's name in a text as ordinary text.

    Otherwise source code that mentions "<|endoftext|>" would end the document there. The file cannot hold
    this setting, so it is made at each load.

    Raises:
        UserError: The file is not a tokenizer, or lacks a special token.
    """
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"'{path}' is missing. Correct tokenizer.path.") from None
    except Exception as error:
        if type(error) is not Exception:  # the library raises exactly this class for what it cannot parse
            raise
        raise UserError(f"'{path}' is not a tokenizer.json: {error}. Correct tokenizer.path.") from None
    for token in (END_OF_DOCUMENT, PADDING):
        if tokenizer.token_to_id(token) is None:
            raise UserError(f"'{path}' has no token '{token}'. Add it to the file, or train a tokenizer.")
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode(tokenizer: Tokenizer, documents: list[Document]) -> list[list[int]]:
    """Return the ids of each document's text, without special tokens, in order; RAYON_NUM_THREADS work at it."""
    encodings = tokenizer.encode_batch_fast([document.text for document in documents], add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def check_round_trip(tokenizer: Tokenizer, document: Document, ids: list[int]) -> None:
    """Check that decoding gives the text back, byte for byte.

    Raises:
        UserError: It does not; the message names the document and the first character that differs.
    """
    decoded = tokenizer.decode(ids, skip_special_tokens=False)
    if decoded == document.text:
        return
    pairs = zip(decoded, document.text, strict=False)
    shorter = min(len(decoded), len(document.text))
    position = next((index for index, (a, b) in enumerate(pairs) if a != b), shorter)
    raise UserError(
        f"The tokenizer does not give '{document.origin}' (id {document.id}) back: it differs from character "
        f"{position} on. It must be byte-level and must not normalise; tokenizer.path = null trains such a one."
    )
