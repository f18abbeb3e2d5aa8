"""What training reads otherwise than evaluation does: slots that are missing, tokens that are not the gold ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from latentwire.codec.base import Coded
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.objectives.base import RowKind
from latentwire.train.batches import Batch, Ids, Rows
from latentwire.train.parts import Part
from latentwire.train.sampling import ScheduledSampling
from latentwire.train.slot_dropout import SlotDropout

Instead = Callable[[Prefix, Mapping[RowKind, Rows]], Mapping[RowKind, Sequence[Ids]]]


@dataclass(frozen=True)
class Noise:
    """Holds what a run adds to what is read in training.

    Attributes:
        seed: seed of the run.
        sampling: the model's own tokens in answers; None: never.
        dropout: slots that are missed; None: none is.
    """

    seed: int = 0
    sampling: ScheduledSampling | None = None
    dropout: SlotDropout | None = None

    def latents(self, coded: Coded, batch: Batch, t: int) -> Coded:
        """Return the message of which readers see what is left, at step t."""
        if self.dropout is None:
            return coded
        numbers = batch.numbers or range(len(batch.passages))
        own = [numbers[b] for b, _ in batch.asked] if batch.whole_prompt else numbers
        names = [(0, n, i if batch.whole_prompt else 0) for i, n in enumerate(own)]
        names += [(1, numbers[b], 0) for b in batch.continued]
        kept = self.dropout.kept(names, coded.values.shape[1], self.seed, t).to(coded.values.device)
        return replace(coded, values=coded.values * kept)

    def instead(self, lm: FrozenLM, part: Part, t: int) -> Instead | None:
        """Return what says, for the rows of a part, what is read in the places of their answers; None: the answers."""
        sampling = self.sampling
        if sampling is None or sampling.share(t) == 0:
            return None
        names = [question.id for _, question in part.asked]

        def read(prefix: Prefix, rows: Mapping[RowKind, Rows]) -> dict[RowKind, Sequence[Ids]]:
            asked = rows.get("answer")
            found = None if asked is None else sampling.read(lm, prefix, asked, names, self.seed, t)
            return {} if found is None else {kind: found for kind in ("answer", "wrong") if kind in rows}

        return read
