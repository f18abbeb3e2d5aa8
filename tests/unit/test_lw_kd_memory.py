"""Distillation on a vocabulary of 128 256 tokens takes almost nothing of what logits of whole sequences would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lw_toys import byte_tokenizer, tiny_model
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import Prompt
from latentwire.objectives.base import Seen, TopK
from latentwire.objectives.distillation import AnswerKD
from latentwire.objectives.likelihood import AnswerCE
from latentwire.objectives.teacher import ask
from latentwire.train.curriculum import Constant

VOCABULARY, TEXT, K, BATCH = 128_256, 512, 8, 1


class Peak(TorchDispatchMode):
    """Counts the bytes of all tensors that operations have made and that still live; `most` is their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        old = {x.untyped_storage()._cdata for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)}
        for x in tree_flatten(out)[0]:
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in old:
                storage = x.untyped_storage()
                self.live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.live = {key: (ref, size) for key, (ref, size) in self.live.items() if not ref.expired()}
        self.most = max(self.most, sum(size for _, size in self.live.values()))
        return out


def peak(step: Callable[[], None]) -> int:
    with Peak() as found:
        step()
    return found.most


@pytest.mark.parametrize("cached", [True, False])
def test_peak_of_distillation(cached: bool) -> None:
    lm = FrozenLM(tiny_model("llama", vocab=VOCABULARY, positions=1024), byte_tokenizer(), "large")
    texts = [[40 + i] * TEXT for i in range(BATCH)]
    questions, answers = [[50] * 16] * BATCH, [[*range(60, 60 + K - 1), 2]] * BATCH
    prompts = [Prompt(lm.style.head, tuple(t), (50,) * 16, (), tuple(answers[0])) for t in texts]
    latents = torch.randn(BATCH, 64, lm.d_model).requires_grad_()
    kept = ask(lm, prompts, K)

    def step(distils: bool) -> None:
        rows = {"answer": lm.answer_logprobs(Prefix(embeds=latents), questions, answers)}
        teacher: TopK | None = (kept if cached else ask(lm, prompts, K)) if distils else None
        seen = Seen(rows, latents, lambda: (latents, latents), 1.0, teacher)  # type: ignore[arg-type]
        terms = [AnswerCE(Constant())(seen, "lm").loss]
        terms += [AnswerKD(Constant(), first=K)(seen, "lm").loss] if distils else []
        torch.stack(terms).sum().backward()

    whole = BATCH * (TEXT + 16 + K) * VOCABULARY * 4
    extra = peak(lambda: step(True)) - peak(lambda: step(False))
    assert extra < 0.02 * whole

    def everywhere() -> None:  # what the measure says of logits of all positions
        with torch.no_grad():
            lm.model(input_ids=torch.tensor([[*t, *q, *a] for t, q, a in zip(texts, questions, answers, strict=True)]))

    assert peak(everywhere) >= whole
