"""How a language model reads a wire, in the terms of objectives that have parameters of their own."""

from __future__ import annotations

from collections.abc import Sequence

from latentwire.encoders.slots import LatentLayout
from latentwire.lm.frozen import FrozenLM
from latentwire.objectives.base import ReaderShape
from latentwire.wire import LatentWire


def reader_shape(
    wire: LatentWire, name: str, lm: FrozenLM, texts: Sequence[str], layouts: Sequence[LatentLayout]
) -> ReaderShape:
    """Return how `lm` reads the wire under the layouts of all stages; chunks are those of the longest of the texts."""
    longest = max(len(lm.style.encode(text)) for text in texts)
    per_slice = zip(*(layout.counts(name) for layout in layouts), strict=True)
    fewest = [min((n for n in counts if n > 0), default=0) for counts in per_slice]
    chunks = tuple(-(-longest // n) if n else 0 for n in fewest)
    injector = wire.injectors[name]
    return ReaderShape(
        lm.d_model,
        injector.adapter.d_out,
        injector.embeds,
        chunks,
        injector.has_states,
        injector.adapter.penalty() is not None,
        lm.n_layers,
        injector.first_state,
        injector.last_state,
    )
