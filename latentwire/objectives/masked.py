"""Reconstruction of a text of which a part alone is read beside the latents."""

from __future__ import annotations

from callbacks.ranges import OpenShare
from latentwire.objectives.base import Needs, Objective, ObjectiveOutput, Seen
from latentwire.train.curriculum import Schedule


class MaskedReconstruction(Objective):
    """Autoencodes through the language model with much of the text hidden: NLL of all its tokens, asked for by `cue`.

    As `TextReconstruction`, but each token that is read, all but the last, is read as the end token with probability
    `share`, drawn anew in every step by seed, step and text. With gold tokens before it a token is often told by
    them, and latents need not tell it; what is hidden they must (word dropout of Bowman et al., 2016, arXiv 1511.06349,
    §3.1; a weak decoder behind a strong encoder as in RetroMAE, Xiao et al., EMNLP 2022, arXiv 2205.12035).

    Limits: it takes the rows of `text_reconstruction`, so a run has one of the two.

    Args:
        weight: its weight over time.
        share: share of tokens that are hidden.
        cue: the question that asks for the text, rendered like every other one.
    """

    def __init__(self, weight: Schedule, share: OpenShare = 0.5, cue: str = "Repeat the text."):
        super().__init__(weight)
        self.masked = share
        self.needs = Needs(frozenset({"text"}), cue=cue)

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        return ObjectiveOutput(seen.rows["text"].nll().mean())
