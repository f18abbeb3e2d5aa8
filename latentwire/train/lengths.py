"""How long the texts and answers of a run are, said before training: nothing is cut that is not counted here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from latentwire.data.base import Passage
from latentwire.encoders.base import Encoder
from latentwire.examples import is_continuation
from latentwire.lm.frozen import FrozenLM
from latentwire.train.positions import AT_ONCE, GENERATED


@dataclass(frozen=True)
class Lengths:
    """Counts tokens of a split.

    Attributes:
        texts: number of texts.
        mean: mean number of tokens of a text, as the encoder counts them.
        longest: number of tokens of the longest text.
        cut: number of texts that are longer than the encoder takes, whose end is cut off (`encoder.overflow=count`).
        cut_tokens: number of tokens that are cut off them.
        answers: number of first answers.
        answer: number of tokens of the longest, its end included, as the reader with the longest counts them.
        beyond: number of answers that no reader can give whole within the new tokens that it may make.
    """

    texts: int
    mean: float
    longest: int
    cut: int
    cut_tokens: int
    answers: int
    answer: int
    beyond: int

    def told(self, name: str, new: int) -> str:
        """Return it in words; `new`: the longest answer that is generated."""
        cut = f", {self.cut} of them cut by {self.cut_tokens} tokens in all" if self.cut else ", none cut"
        said = f"{name} {self.texts} texts of {self.mean:.0f} tokens on average, {self.longest} at most{cut}"
        if not self.answers:
            return said
        return f"{said}; answers of {self.answer} tokens at most, {self.beyond} of {self.answers} beyond {new}"


def lengths(passages: Sequence[Passage], encoder: Encoder, lms: Mapping[str, FrozenLM], new: int) -> Lengths:
    """Count a split, or of one that is made while it is read its first `GENERATED` passages.

    Args:
        passages: the split.
        encoder: the encoder, which counts the texts.
        lms: the models that read, which count the answers.
        new: longest answer that is generated, in tokens.
    """
    looked = passages if isinstance(passages, list | tuple) else [*islice(iter(passages), GENERATED)]
    texts: list[int] = []
    for i in range(0, len(looked), AT_ONCE):
        texts += map(len, encoder.all_ids([p.text for p in looked[i : i + AT_ONCE]]))
    asked = [q.answers[0] for p in looked for q in p.questions if not is_continuation(q)]
    different = list(dict.fromkeys(asked))
    counted = [[1 + len(ids) for ids in lm.style.encode_all(different)] for lm in lms.values()]
    of = dict(zip(different, (max(each) for each in zip(*counted, strict=True)), strict=True))
    answers = [of[answer] for answer in asked]
    over = [n - encoder.max_tokens for n in texts if n > encoder.max_tokens]
    return Lengths(
        len(texts),
        sum(texts) / max(1, len(texts)),
        max(texts, default=0),
        len(over),
        sum(over),
        len(answers),
        max(answers, default=0),
        sum(n > new for n in answers),
    )
