"""What training reads otherwise than evaluation does: slots that are missing or text, tokens that are not gold."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from latentwire.codec.base import Coded
from latentwire.encoders.slots import LatentLayout
from latentwire.injectors.base import Injector
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.objectives.base import RowKind
from latentwire.train.batches import Batch, Ids, Rows
from latentwire.train.parts import Part
from latentwire.train.sampling import ScheduledSampling, mixed
from latentwire.train.slot_dropout import SlotDropout
from latentwire.train.text_warm_up import TextWarmUp, among

ANSWERS: tuple[RowKind, ...] = ("answer", "wrong")
Instead = Callable[[Prefix, Mapping[RowKind, Rows]], Mapping[RowKind, Sequence[Ids]]]


@dataclass(frozen=True)
class Noise:
    """Holds what a run adds to what is read in training.

    Attributes:
        seed: seed of the run.
        sampling: the model's own tokens in answers; None: never.
        dropout: slots that are missed; None: none is.
        masked: share of the tokens of `text` rows that are not read (`Objective.masked`).
        text: places of latents that are read as text; None: none is.
    """

    seed: int = 0
    sampling: ScheduledSampling | None = None
    dropout: SlotDropout | None = None
    masked: float = 0.0
    text: TextWarmUp | None = None

    def latents(self, coded: Coded, batch: Batch, t: int) -> Coded:
        """Return the message of which readers see what is left, at step t."""
        if self.dropout is None:
            return coded
        kept = self.dropout.kept(names_of(batch), coded.values.shape[1], self.seed, t).to(coded.values.device)
        return replace(coded, values=coded.values * kept)

    def prefixes(
        self, found: dict[str, Prefix], injectors: Mapping[str, Injector], batch: Batch, layout: LatentLayout, t: int
    ) -> dict[str, Prefix]:
        """Return what the models read, some of it text, at step t.

        Args:
            found: what they would read of the latents, by name.
            injectors: their injectors.
            batch: the batch, with its contexts as ids.
            layout: the slots that are read.
            t: number of committed steps.
        """
        if self.text is None or self.text.share(t) == 0:
            return found
        for name, prefix in found.items():
            ids, mask = batch.context[name]
            text = injectors[name].text_prefix(ids, mask, layout.counts(name))
            taken = self.text.taken(names_of(batch)[: len(ids)], text.latents, self.seed, t)
            found[name] = among(prefix, text, taken)
        return found

    def instead(self, model: str, lm: FrozenLM, batch: Batch, part: Part, t: int) -> Instead | None:
        """Return what says, for a part's rows, what is read in the places of their answers; None: the answers.

        Args:
            model: the name of the language model in the batch.
            lm: the model.
            batch: the batch.
            part: the part.
            t: number of committed steps.
        """
        sampling = self.sampling if self.sampling is not None and self.sampling.share(t) > 0 else None
        if sampling is None and self.masked == 0:
            return None
        asked = [question.id for _, question in part.asked]
        told = part.rows[model].get("text", Rows()).source

        def read(prefix: Prefix, rows: Mapping[RowKind, Rows]) -> dict[RowKind, Sequence[Ids]]:
            found: dict[RowKind, Sequence[Ids]] = {}
            if sampling is not None and "answer" in rows:
                own = sampling.read(lm, prefix, rows["answer"], asked, self.seed, t)
                found |= {} if own is None else {kind: own for kind in ANSWERS if kind in rows}
            if self.masked and "text" in rows:
                names = [f"{self.seed}/masked/{t}/{lm.name}/{batch.passages[b].id}" for b in told]
                mask = [lm.style.eos]
                found["text"] = [
                    mixed(ids, mask * len(ids), self.masked, random.Random(name))
                    for ids, name in zip(rows["text"].answer, names, strict=True)
                ]
            return found

        return read


def names_of(batch: Batch) -> list[tuple[int, int, int]]:
    """Return whole numbers that name each text of a batch within its step, whatever the ranks."""
    numbers = batch.numbers or range(len(batch.passages))
    own = [numbers[b] for b, _ in batch.asked] if batch.whole_prompt else numbers
    names = [(0, n, i if batch.whole_prompt else 0) for i, n in enumerate(own)]
    return names + [(1, numbers[b], 0) for b in batch.continued]
