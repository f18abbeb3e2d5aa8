"""Semantic anchors: what a frozen model makes of a text as a whole."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from callbacks.errors import UserError
from latentwire.encoders.base import Beside, Tokens
from latentwire.encoders.mixing import channel_statistics, chosen_layers, standardised
from latentwire.encoders.on_sentence import OnSentence
from latentwire.encoders.said import Saying
from latentwire.encoders.states import frozen_states
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import right_padded
from latentwire.lm.sentence import SentenceModel

SOURCE = "encoder.anchor_source"


class Anchor(Saying):
    """Makes the anchor of a text, the mean over its tokens and some layers of a frozen model's standardised states.

    Nothing in it is trained. It says `anchor` (B, width).

    State: mean and std of the states.

    Args:
        layers: numbers of the states, 0 (embeddings) to `count`; None: all.
        count: number of the model's layers.
        width: width of its states.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, layers: Sequence[int] | None, count: int, width: int):
        super().__init__()
        self.chosen, self.width = chosen_layers(layers, count, "anchor_layers"), width
        self.says = {"anchor": width}
        self.register_buffer("mean", torch.zeros(len(self.chosen), width))
        self.register_buffer("std", torch.zeros(len(self.chosen), width))

    def beside(self, texts: Sequence[str]) -> Beside | None:
        """Return ids and mask (B, T) of texts in the model's own tokens; None where these are the encoder's."""
        return None

    def states(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return the states (layers, B, T, width) of texts, without gradient, and their mask (B, T)."""
        raise NotImplementedError

    @torch.no_grad()
    def measure(self, texts: Sequence[Tokens]) -> None:
        """Measure mean and std of the states on texts, each alone in its batch."""
        device = self.mean.device
        mean, std = channel_statistics(self.states(text.to(device))[0][:, 0] for text in texts)
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, tokens: Tokens) -> Tensor:
        """Return the anchors (B, width) of texts, without gradient."""
        with torch.no_grad():
            states, mask = self.states(tokens)
            found = standardised(states.to(self.mean), self.mean, self.std).mean(0)
            found = found.masked_fill(~mask.to(found.device).unsqueeze(2), 0.0)
            anchor = found.sum(1) / mask.to(found).sum(1, keepdim=True).clamp(min=1)
        self.say("anchor", anchor)
        return anchor


class StateAnchor(Anchor):
    """Makes anchors of the states of a language model, read with its adapters off.

    Args:
        lm: the model.
        layers: numbers of the states, 0 (embeddings) to n_layers; None: all.
    """

    def __init__(self, lm: FrozenLM, layers: Sequence[int] | None):
        super().__init__(layers, lm.n_layers, lm.d_model)
        self.lm = lm

    def states(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        return frozen_states(self.lm, tokens, self.chosen), tokens.mask


class SentenceAnchor(OnSentence, Anchor):
    """Makes anchors of the states of a frozen sentence encoder, which was trained to tell meanings apart.

    It reads the text in tokens of its own (`Tokens.beside`). Its weights are not in the state (`OnSentence`).

    Args:
        source: the sentence encoder, see `SentenceModel.load`.
        layers: numbers of the states, 0 (embeddings) to the number of layers; None: all.
    """

    key = SOURCE

    def __init__(self, source: str, layers: Sequence[int] | None):
        model = SentenceModel.load(source, SOURCE)
        super().__init__(layers, model.n_layers, model.width)
        self.stand_on(source, model)

    def beside(self, texts: Sequence[str]) -> Beside:
        """Return ids and mask (B, T) of texts in its own tokens. Raises UserError for one that it cannot read whole."""
        rows, most = self.sentence.all_ids(texts), self.sentence.max_tokens
        if (longest := max(map(len, rows), default=0)) > most:
            raise UserError(
                SOURCE,
                f"a text of {longest} tokens of {self.source}",
                f"at most {most}, which it reads beside its special ones",
                f"set {SOURCE}=null, or choose shorter texts (corpus.*)",
            )
        return right_padded(rows)

    def states(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        if tokens.beside is None:
            raise RuntimeError("an anchor without its own tokens of the text")
        ids, mask = tokens.beside
        return self.sentence.states(ids, mask, self.chosen), mask
