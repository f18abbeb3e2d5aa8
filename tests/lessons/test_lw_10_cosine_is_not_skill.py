"""A high cosine is no task skill (specification B2.10).

The mean of the sequence, repeated M times, has a cosine of 0.95 to the embeddings and an F1 of 0.007: both are
reported, every token is its own target, and no slot is a copy of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from lw_parts import lessons
from lw_runs import config, fit, history
from torch import Tensor

from latentwire.baselines.pca import PCA
from latentwire.baselines.text import Text
from latentwire.data.biographies import Biographies
from latentwire.encoders.pooling import ChunkMean, CrossAttention, Hierarchical, StridedConv
from latentwire.examples import prompt_of
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.objectives.base import ReaderShape, Seen
from latentwire.objectives.reconstruction import EmbeddingReconstruction, embedding_loss
from latentwire.pocket import architecture as pocket
from latentwire.scoring.evaluator import Evaluator
from latentwire.train.curriculum import Constant


def test_embeddings_at_a_cosine_of_three_quarters_answer_next_to_nothing() -> None:
    """Principal components at 4x on a model that answers all of it from the text; the mean fares no better."""
    lm = pocket.load("pocket_llama")
    corpus = Biographies(2, 3)
    passages = [corpus.split("test")[i] for i in range(8)]
    train = [corpus.split("train")[i] for i in range(100)]
    slots = len(prompt_of(lm, passages[0], passages[0].questions[0]).context) // 4
    pca = PCA(d_z=32)
    evaluator = Evaluator({lm.name: lm}, passages, {"text": Text(), "pca": pca}, 6, budget=lessons(train, 1), n_boot=20)
    found = evaluator.run({"wire": MeanRepeated(lm, slots)}).methods
    cosines = []
    for p in passages:
        tokens = lm.embed(torch.tensor(prompt_of(lm, p, p.questions[0]).context))
        embeds = pca.prefix(lm, [p], p.questions[:1], slots).embeds
        assert embeds is not None
        cosines.append(float(embedding_loss(embeds[0], tokens, 1.0, 0.1)[1]))
    assert min(cosines) > 0.7
    assert found["text"]["f1"] > 0.95
    assert found["pca"]["f1"] < 0.25
    assert found["wire"]["f1"] < 0.1
    assert {"f1", "em", "kl_to_text", "stopped", "distinct"} <= set(found["pca"]), "the table shows skill"


class MeanRepeated:
    """A wire that sends the mean embedding of the text, M times."""

    def __init__(self, lm: FrozenLM, slots: int):
        self.lm, self.slots = lm, slots

    def encode(self, texts: Sequence[str]) -> Tensor:
        means = [self.lm.embed(torch.tensor(self.lm.style.encode(t))).mean(0) for t in texts]
        return torch.stack(means).unsqueeze(1).expand(-1, self.slots, -1)

    def prefix(self, values: Tensor, model: str) -> Prefix:
        return Prefix(embeds=values)

    def message_bytes(self) -> int:
        return 4 * self.slots * self.lm.d_model


def test_the_mean_is_not_what_reconstruction_asks_for() -> None:
    """Latents that are free to move, and a head that could say the mean everywhere: every token is found instead."""
    torch.manual_seed(0)
    tokens = torch.randn(2, 6, 8) + 3 * torch.randn(8)
    objective = EmbeddingReconstruction(Constant())
    objective.prepare({"lm": ReaderShape(8, 24, False, (2, 0))}, d_z=24)
    latents = torch.zeros(2, 3, 24, requires_grad=True)
    optimizer = torch.optim.Adam([latents, *objective.parameters()], lr=0.03)
    texts = (tokens, torch.ones(2, 6, dtype=torch.bool))
    seen = Seen({}, latents, lambda: texts, 1.0, None, lambda: latents, (3, 0))
    for _ in range(200):
        outcome = objective(seen, "lm")
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
    mean = tokens.mean(1, keepdim=True).expand_as(tokens)
    assert float(embedding_loss(mean, tokens, 1.0, 0.1)[1]) > 0.9
    assert float(outcome.loss.detach()) < 0.1 * float(embedding_loss(mean, tokens, 1.0, 0.1)[0])
    predicted = objective.predict(latents, (3, 0), torch.tensor([6, 6]), "lm").detach()
    nearest = torch.cdist(predicted, tokens).argmin(2)
    assert nearest.tolist() == [list(range(6))] * 2, "each of the six is nearest to its own token"


@pytest.mark.parametrize(
    "pooling",
    [ChunkMean, partial(CrossAttention, heads=2), StridedConv, partial(Hierarchical, heads=2)],
    ids=["chunk_mean", "cross_attention", "strided_conv", "hierarchical"],
)
def test_no_pooling_repeats_itself(pooling: type[ChunkMean]) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 12, 8)
    slots = pooling(8)(x, torch.ones(1, 12, dtype=torch.bool), [4])[0].detach()
    apart = torch.pdist(slots)
    assert float(apart.min()) > 0.05 * float(slots.norm(dim=1).mean())


def test_a_run_reports_both(tmp_path: Path) -> None:
    cfg = config(tmp_path, "objective=[embedding_reconstruction,answer_ce]", "trainer.log_every_n_steps=1")
    fit(cfg)
    assert len(history(cfg, "train/cosine")) == 12
    assert len(history(cfg, "val/f1")) == 2
