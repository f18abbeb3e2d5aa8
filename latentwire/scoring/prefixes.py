"""One wire at every budget: its messages at fewer slots, beside every baseline that gets as little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from latentwire.codec.message import message_bytes
from latentwire.lm.layout import Prefix
from latentwire.scoring.evaluation import Evaluation, paired_tests
from latentwire.scoring.evaluator import Evaluator
from latentwire.wire import LatentWire

SERIES = "prefix_of"  # in a method's numbers: the name of the row of whole messages


def at(name: str, slots: int) -> str:
    """Return the name of a row at a budget, `wire@7`."""
    return f"{name}@{slots}"


class CutWire:
    """Sends the first slots of a wire's messages, or messages of so many; for the evaluator, a wire as any other.

    Args:
        wire: the wire, trained with nested budgets.
        slots: number of slots that are sent.

    Raises:
        UserError: a wire that was not trained so, or one with fewer slots.
    """

    def __init__(self, wire: LatentWire, slots: int):
        self.wire, self.layout = wire, wire.layout.prefix(slots, "evaluation.slots")
        self._encoded = self.layout if self.layout.apart else wire.layout

    @property
    def slots(self) -> int:
        """The number of latents of a message."""
        return self.layout.slots

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return the values that the receiver of texts decodes, (B, slots, d_z)."""
        return self.wire.encode(texts, layout=self._encoded)[:, : self.slots]

    def latents_of(self, texts: Sequence[str], batch: int) -> Tensor:
        """Return the encoder's latents of texts, (B, slots, d_z)."""
        return self.wire.latents_of(texts, batch, self._encoded)[:, : self.slots]

    def prefix(self, values: Tensor, model: str) -> Prefix:
        """Return what `model` reads for values."""
        return self.wire.prefix(values, model, self.layout)

    def message_bytes(self) -> int:
        """Return the bytes of a message; of the longest where they differ."""
        return message_bytes(self.wire.codec, self.slots).total

    def identity(self) -> bytes:
        """Return the wire's fingerprint."""
        return self.wire.identity()

    def pack(self, z: Tensor, identity: bytes) -> list[bytes]:
        """Write the messages of latents."""
        return self.wire.pack(z, identity)

    def unpack(self, messages: Sequence[bytes], identity: bytes) -> Tensor:
        """Read messages: the values that `encode` returns."""
        return self.wire.unpack(messages, identity)


def evaluate(evaluator: Evaluator, name: str, wire: LatentWire, slots: Sequence[int]) -> Evaluation:
    """Evaluate a wire with all baselines, then its prefixes with all that a budget changes something for.

    Rows of whole messages have their own names, the others those of `at`, with `prefix_of` beside their numbers. A
    prefix is tested against its own baselines and controls, against whole messages, and against what no budget changes.

    Args:
        evaluator: passages, models and baselines.
        name: the name of the wire's rows.
        wire: the wire, in evaluation mode.
        slots: lengths of prefixes; that of whole messages adds nothing.
    """
    whole = [name] if wire.whole_prompt else []
    found = evaluator.run({name: wire}, whole_prompt=whole)
    fixed = [b for b, baseline in evaluator.baselines.items() if not baseline.budgeted]
    for k in sorted(set(slots) - {wire.slots}, reverse=True):
        rest = {at(b, k): baseline for b, baseline in evaluator.baselines.items() if b not in fixed}
        cut = evaluator.beside(rest).run({at(name, k): CutWire(wire, k)}, whole_prompt=[at(n, k) for n in whole])
        _add(found, cut, k)
        rows = [r for r in found.rows if r["method"] in (at(name, k), name, *fixed)]
        comparable = [r for r in rows if _track(found, r) == _track(found, {**r, "method": name})]
        found.tests += paired_tests(comparable, [at(name, k)], evaluator.n_boot, evaluator.seed)
    return found


def _add(found: Evaluation, cut: Evaluation, slots: int) -> None:
    """Add what was measured at one budget."""
    for key, numbers in cut.methods.items():
        found.methods[key] = {**numbers, SERIES: key.replace(f"@{slots}", "", 1)}
    found.rows += cut.rows
    found.kinds |= cut.kinds
    found.tests += cut.tests
    found.notes += [note for note in cut.notes if note not in found.notes]


def _track(found: Evaluation, row: dict[str, Any]) -> str:
    name, model = row["method"], row["model"]
    numbers = found.methods.get(name) or found.methods.get(f"{name}/{model}") or {}
    return str(numbers.get("track"))
