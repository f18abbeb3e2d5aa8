"""The two tokenizers of the pocket models: different kinds, different vocabularies, one set of rules.

Both keep padding, beginning and end apart (`<pad>`, `<bos>`, `<eos>`), add none of them by themselves (the prompt
renderer places them) and give a text of the corpus back exactly. A word has one spelling in ids wherever it stands, so
that texts cut at white space can be tokenised piece by piece.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from callbacks.errors import UserError

TokenizerKind = Literal["word_piece", "byte_bpe"]
PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
SPECIAL = [PAD, BOS, EOS, UNK]
# After the mapping of bytes to characters, where "Ġ" is a space and "Ċ" a line feed.
_WORDS = r"Ġ?[^ĠĊ\p{P}]+|Ġ?\p{P}+Ċ*|Ċ+|Ġ+"


def build_tokenizer(kind: TokenizerKind, vocab_size: int, lines: Sequence[str]) -> PreTrainedTokenizerFast:
    """Learn pieces from lines of text; the same lines give the same ids.

    `word_piece`: longest match first among whole words, single characters and, marked `##`, characters inside a word;
    white space is only a border. `byte_bpe`: byte-pair merges with the space before a word and the line feeds after
    punctuation as part of it (as Qwen2 splits) and all 256 bytes as a base, so that no text is ever unknown.

    Args:
        kind: `word_piece` or `byte_bpe`.
        vocab_size: largest number of pieces, special ones included.
        lines: text to learn from.

    Raises:
        UserError: `vocab_size` does not even hold the single characters.
    """
    make = _word_piece if kind == "word_piece" else _byte_bpe
    return PreTrainedTokenizerFast(
        tokenizer_object=make(vocab_size, lines),
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def used_ids(tokenizer: PreTrainedTokenizerFast, lines: Sequence[str]) -> list[int]:
    """Return the ids that occur in the lines, sorted."""
    found = tokenizer(list(lines), add_special_tokens=False)["input_ids"]
    return sorted({i for ids in found for i in ids})


def _word_piece(vocab_size: int, lines: Sequence[str]) -> Tokenizer:
    # The vocabulary is listed here, as the library's WordPiece trainer gives other ids on every call.
    marks = string.ascii_letters + string.digits + string.punctuation
    inside = string.ascii_letters + string.digits
    pieces = [*SPECIAL, *marks, *("##" + c for c in inside)]
    border = pre_tokenizers.BertPreTokenizer()
    counts = Counter(word for line in lines for word, _ in border.pre_tokenize_str(line) if len(word) > 1)
    _refuse_small(vocab_size, len(pieces))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    pieces += words[: vocab_size - len(pieces)]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token=UNK))
    tokenizer.pre_tokenizer = border
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return tokenizer


def _byte_bpe(vocab_size: int, lines: Sequence[str]) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    _refuse_small(vocab_size, len(SPECIAL) + len(alphabet))
    tokenizer = Tokenizer(models.BPE())
    # With the prefix space a word at the start of a run has the same ids as inside a sentence.
    bytes_first = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    words = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([bytes_first, words])
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def _refuse_small(vocab_size: int, base: int) -> None:
    if vocab_size < base:
        expected, remedy = f"at least {base}", f"set pocket.tokenizer.vocab_size={base} or more"
        raise UserError("pocket.tokenizer.vocab_size", str(vocab_size), expected, remedy)
