"""One wire at several compression ratios, each of which pools the text for itself."""

from __future__ import annotations

from typing import Annotated, ClassVar

from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Multiple, PositiveShare
from latentwire.train.nested import Nested


class SeveralRatios(Nested):
    """Draws a compression ratio for every step; one encoder serves them all (Feldman & Artzi, 2025, arXiv 2510.20797).

    At `times` n a text has max(1, round(M / n)) latents, M being those at the run's own ratio. They are pooled over the
    whole text anew (chunk means of n times as many tokens under `pooling=chunk_mean`), whereas a prefix of a message
    (`NestedBudgets`) is a part of what was made for M. So any encoder will do, and objectives that hold a slot to its
    part of the text are welcome; but a message that was written cannot be cut, its text has to be encoded again.

    A step is at one ratio, so that it costs no more than a step of a wire with one.

    Args:
        times: further ratios as multiples of the run's own, e.g. `[2, 4]` for 8x and 16x under `wire.ratio=4`.
        own: share of the steps at the run's own ratio, the others have equal parts of what is left; null: as much as
            each of them.
    """

    apart: ClassVar[bool] = True

    def __init__(self, times: Annotated[list[Multiple], NOT_EMPTY], own: PositiveShare | None = None):
        super().__init__()
        self.times, self.own = sorted(set(times), reverse=True), own

    def shares(self, slots: int) -> dict[int, float]:
        found = [max(1, round(slots / n)) for n in self.times]
        if len({*found, slots}) <= len(found):
            raise UserError(
                "wire.nested.times",
                f"{self.times} for messages of {slots} slots, which makes {found}",
                f"different numbers below {slots}",
                f"set wire.nested.times=[2], or wire.slots={max(8, 2 * slots)}",
            )
        own = 1 / (len(found) + 1) if self.own is None else float(self.own)
        return {k: share for k in found if (share := (1 - own) / len(found)) > 0} | {slots: own}
