"""Linear compression: principal components of chunks of embeddings, read as the embeddings they give back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch

from callbacks.ranges import Bounds, Count, Width
from latentwire.baselines.learned import LearnedBaseline
from latentwire.baselines.pooled import FP16_BYTES
from latentwire.baselines.training import Amount, TrainingBudget
from latentwire.data.base import Passage, Question
from latentwire.encoders.pca import PCAEncoder
from latentwire.encoders.slots import LatentLayout
from latentwire.examples import is_continuation
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix

Headroom = Annotated[float, Bounds("a factor from 1 to 1000", ge=1, le=1000)]


class PCA(LearnedBaseline[PCAEncoder]):
    """Sends M vectors of `d_z` numbers; the model reads the T embeddings that they are decoded to.

    The message has M slots, what is read has the context's own length: a linear code in its best light.

    Args:
        d_z: count of numbers per slot, at most chunk * d_model; that of the wire makes messages equal.
        texts: number of training texts to fit on.
        headroom: factor by which chunks are longer than the longest of these texts needs.
    """

    name = "pca"
    equal_lengths = True
    remark = "M x d_z numbers as fp16, decoded to the context's own length"

    def __init__(self, d_z: Width = 64, texts: Count = 200, headroom: Headroom = 2.0):
        super().__init__()
        self.d_z, self.texts, self.headroom = d_z, texts, headroom

    def make(self, lm: FrozenLM, budget: TrainingBudget, slots: int) -> PCAEncoder:
        longest = max(len(lm.style.encode(t)) for t in self._texts(budget))
        chunk = int(-(-longest * self.headroom // slots))
        encoder = PCAEncoder(lm, min(self.d_z, chunk * lm.d_model), chunk, max_tokens=lm.max_tokens)
        return encoder.to(lm.input_device)

    def learn(self, net: PCAEncoder, lm: FrozenLM, budget: TrainingBudget, amount: Amount, slots: int) -> None:
        net.fit(self._texts(budget), LatentLayout(slots))

    def _texts(self, budget: TrainingBudget) -> list[str]:
        first = (budget.train[i] for i in range(min(self.texts, len(budget.train))))
        return [_text(p, p.questions[0]) for p in first]

    def told(self, lm: FrozenLM, slots: int) -> dict[str, Any]:
        return {"questions_seen": 0}

    @torch.no_grad()
    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        encoder, layout = self.learned(lm, slots), LatentLayout(slots)
        tokens = encoder.tokenize([_text(p, q) for p, q in zip(passages, questions, strict=True)]).to(lm.input_device)
        z = encoder(tokens, layout).half().to(encoder.mean)  # as it is sent
        return Prefix(embeds=encoder.reconstruct(z, tokens.mask.sum(1)))

    def message_bytes(self, lm: FrozenLM, slots: int) -> int | None:
        return FP16_BYTES * slots * self.learned(lm, slots).d_z


def _text(passage: Passage, question: Question) -> str:
    """Return the text whose ids are the prompt's context."""
    return passage.text if is_continuation(question) else passage.text.strip() + "\n"
