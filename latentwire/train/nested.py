"""One wire for every budget: how many slots of a message its readers see in a step of training.

The latents of a message are ordered, and a step reads a prefix of them, whose length is drawn (nested dropout, Rippel
et al., 2014, arXiv 1402.0915). A short list of lengths is the choice of Matryoshka representations (Kusupati et al.,
2022, arXiv 2205.13147), which read all of them in every step. The encoder makes all slots and the codec codes them all,
so that whoever holds a message can cut it afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch

from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Count, OpenShare, PositiveShare
from latentwire.encoders.base import Encoder
from latentwire.encoders.slots import LatentLayout

STREAM = 0x6E6573  # sets these draws apart from others of the same seed


Order = Literal["text", "spread"]


class Nested:
    """Says how often a prefix of a message is read; base of all laws.

    Attributes:
        apart: whether a message of fewer slots is encoded for itself, and not the beginning of one with all.

    Args:
        order: how shared slots are sent: `text`, in the order of the text, so that a prefix begins as the slots of its
            beginning; or `spread`, every prefix spread over the text (`encoders.slots.message_order`).
    """

    apart: ClassVar[bool] = False

    def __init__(self, order: Order = "text"):
        if order not in ("text", "spread"):
            raise UserError("wire.nested.order", repr(order), "text | spread", "set wire.nested.order=spread")
        self.order = order

    def shares(self, slots: int) -> dict[int, float]:
        """Return the probability of every length that is drawn, shortest first, for messages of `slots` latents.

        They sum to 1, and the whole message is among them.

        Raises:
            UserError: a law that asks for more slots than there are.
        """
        raise NotImplementedError

    def draw(self, slots: int, seed: int, step: int) -> int:
        """Return the length that a step reads: a function of seed and step alone, so no rank and no restart differs.

        Args:
            slots: number of latents of a message.
            seed: seed of the run.
            step: number of steps that were committed before; a vetoed step draws the same again.
        """
        shares = self.shares(slots)
        u = np.random.default_rng([seed, STREAM, step]).random()
        reached = np.cumsum(list(shares.values()))
        reached[-1] = 1.0  # whatever the sum has rounded to
        return list(shares)[int(np.searchsorted(reached, u, side="right"))]


class NestedBudgets(Nested):
    """Draws from a list of lengths with equal shares; the whole message is always one of them.

    Args:
        budgets: numbers of slots, e.g. `[13, 7]` under a wire of 26.
        full: share of the whole message, the others have equal parts of what is left; null: as much as each of them.
        order: see `Nested`.
    """

    def __init__(
        self,
        budgets: Annotated[list[Count], NOT_EMPTY],
        full: PositiveShare | None = None,
        order: Order = "text",
    ):
        super().__init__(order)
        self.budgets, self.full = sorted(set(budgets)), full

    def shares(self, slots: int) -> dict[int, float]:
        if self.budgets[-1] > slots:
            fitting = [k for k in self.budgets if k <= slots]
            raise UserError(
                "wire.nested.budgets",
                f"{self.budgets[-1]} slots of a message that has {slots}",
                f"at most {slots}",
                f"set wire.nested.budgets={str(fitting or [slots]).replace(' ', '')}, or wire.slots={self.budgets[-1]}",
            )
        cut = [k for k in self.budgets if k < slots]
        full = 1 / (len(cut) + 1) if self.full is None or not cut else float(self.full)
        found = {k: (1 - full) / len(cut) for k in cut}
        return {k: share for k, share in found.items() if share > 0} | {slots: full}


class NestedGeometric(Nested):
    """Draws every length: P(k) = (1 - full) p (1 - p)^(k - least) from `least` on, and the whole message has the rest.

    This is the law of Rippel et al. (2014, §3.2) for the index behind which all units are dropped, ended at M. The
    first slots are read most often.

    Args:
        p: probability that a message ends behind a slot that it has come to.
        full: share that the whole message has in any case.
        least: smallest length.
        order: see `Nested`.
    """

    def __init__(self, p: OpenShare = 0.1, full: PositiveShare = 0.25, least: Count = 1, order: Order = "text"):
        super().__init__(order)
        self.p, self.full, self.least = p, full, least

    def shares(self, slots: int) -> dict[int, float]:
        if self.least > slots:
            raise UserError(
                "wire.nested.least",
                f"{self.least} slots of a message that has {slots}",
                f"at most {slots}",
                f"set wire.nested.least=1, or wire.slots={self.least}",
            )
        left = 1 - float(self.full)
        found = {k: left * self.p * (1 - self.p) ** (k - self.least) for k in range(self.least, slots)}
        cut = {k: share for k, share in found.items() if share > 0}
        return cut | {slots: 1 - sum(cut.values())}


def budgets(nested: Nested | None, slots: int) -> tuple[int, ...]:
    """Return the lengths that are read in training, shortest first; none where only whole messages are."""
    found = () if nested is None else tuple(nested.shares(slots))
    return found if len(found) > 1 else ()


@torch.no_grad()
def refuse_unordered(encoder: Encoder, texts: Sequence[str], layout: LatentLayout) -> None:
    """Refuse an encoder whose first slot does not know how its text ends: no prefix could ever stand for the whole.

    Nothing can be told where no text has two different tokens.

    Args:
        encoder: the encoder, fitted.
        texts: some texts.
        layout: the slots of a message.

    Raises:
        UserError: such an encoder.
    """
    for text in texts:
        tokens = encoder.tokenize([text])
        ids = tokens.ids[0, tokens.mask[0]].tolist()
        other = next((i for i in ids if i != ids[-1]), None)
        if other is None:
            continue
        changed = tokens.ids.clone()
        changed[0, len(ids) - 1] = other
        device = next((t.device for t in [*encoder.parameters(), *encoder.buffers()]), torch.device("cpu"))
        training = encoder.training
        encoder.eval()
        first = [encoder(replace(tokens, ids=i).to(device), layout)[0, 0] for i in (tokens.ids, changed)]
        encoder.train(training)
        if torch.equal(*first):
            raise UserError(
                "wire.nested",
                f"encoder {type(encoder).__name__}, whose first slot does not depend on the end of the text",
                "slots that can each say something of the whole text, so that a prefix of them can stand for it",
                "set encoder=lm_hidden with encoder.refiner_layers=3, or add ~wire.nested",
            )
        return
