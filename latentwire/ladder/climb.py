"""Up the ladder, rung by rung, until one fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from callbacks.errors import UserError
from latentwire.ladder.options import LadderOptions
from latentwire.ladder.rung0_parity import parity
from latentwire.ladder.rung1_replay import replay
from latentwire.ladder.rung2_channel import channel
from latentwire.ladder.rung3_overfit import overfit
from latentwire.ladder.rung4_condition import condition
from latentwire.ladder.rung5_budget import Trained, budget
from latentwire.ladder.rung6_squeeze import squeeze
from latentwire.ladder.subject import Subject
from latentwire.ladder.verdict import NAMES, Verdict, refused

TRAINED = 5  # the first rung that needs a trained wire


def climb(
    ladder: LadderOptions, subject: Callable[[], Subject], run_dir: Callable[[], Path] | None
) -> Iterator[Verdict]:
    """Yield the verdicts of all rungs in order.

    Behind the first that fails, and outside first … last, they are `not run`. An error of the suite on a rung
    (`UserError`: an audit, a refused text) is that rung's verdict.

    Args:
        ladder: what the rungs do.
        subject: builder of the fresh wire for rungs 0 to 4; called once, if at all.
        run_dir: what gives the directory of a trained run for rungs 5 and 6, and may train it; None: there is none.

    Raises:
        UserError: the wire cannot be built.
    """
    stopped = ""
    fresh: Subject | None = None
    run: Trained | None = None
    folder = Path()
    for rung in range(len(NAMES)):
        outside = f"ladder.first={ladder.first}, ladder.last={ladder.last}"
        why = stopped or ("" if ladder.first <= rung <= ladder.last else outside)
        remedy = ""
        if not why and rung >= TRAINED and run_dir is None:
            why, remedy = "no trained wire", "run=<directory of a run>, or train=true"
        if why:
            yield Verdict(rung, "not run", found=why, remedy=remedy)
            continue
        start = time.perf_counter()
        if rung < TRAINED:
            fresh = fresh or subject()
        try:
            if rung == TRAINED or (rung > TRAINED and run is None):
                assert run_dir is not None
                fresh = None  # its models are loaded anew: adapters on them were trained at rung 3
                folder = run_dir()
                run = Trained.read(folder)
            verdict = _one(rung, ladder, fresh, run, folder)
        except UserError as error:
            verdict = refused(rung, error)
        if verdict.status == "fail":
            stopped = f"rung {rung} failed"
        yield replace(verdict, seconds=time.perf_counter() - start)


def _one(rung: int, ladder: LadderOptions, fresh: Subject | None, run: Trained | None, folder: Path) -> Verdict:
    if fresh is not None:
        if rung == 0:
            return parity(fresh, ladder.parity)
        if rung == 1:
            return replay(fresh, ladder.replay)
        if rung == 2:
            return channel(fresh, ladder.channel)
        if rung == 3:
            return overfit(fresh, ladder.overfit)
        return condition(fresh, ladder.condition, ladder.overfit.examples)
    assert run is not None
    if rung == TRAINED:
        return budget(run, ladder.budget)
    return squeeze(run.subject, folder, ladder.squeeze, ladder.budget.passages)
