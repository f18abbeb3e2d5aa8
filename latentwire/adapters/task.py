"""A linear map, and what each of several tasks adds to it."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Positive, Width
from latentwire.adapters.calibration import Mode
from latentwire.adapters.linear import LinearAdapter


class TaskAdapter(LinearAdapter):
    """Has a learned vector for every task (corpus) that one map serves, y = (1 + s_t) * u + v_t * unit.

        u = calibration(W z + b)          s_t, v_t: scale and shift per channel of task t, 0 at the start (identity)

    With `by: shift` there is no s_t and v_t is a task embedding that is added; with `film` both are there, as in FiLM
    (Perez et al., 2018, Eqs. 1–2) on a one-hot condition. unit is the size that the calibration aims at, so that one
    learning rate fits every reader. Vectors of other tasks are saved beside it and get no gradient: a wire that has
    learned one task goes on to the next with `+wire.start_from=RUN adapter.task=NEXT`. What both use, W first of all,
    moves on unless a stage holds it.

    Limits: a run, and a bundle made of it, is about one task; tasks do not mix within a batch. An optimiser with weight
    decay shrinks the vectors of other tasks as well.

    Args:
        d_z: width of a latent.
        d_out: width of the result.
        target: RMS that the calibration aims at.
        tasks: names of all tasks, the same in every run that shares weights.
        task: the one that this run is about.
        by: what a task changes, `film` or `shift`.
        calibration: `batch`, `token` or `none`.

    Raises:
        UserError: a task that is not among them, two of one name, or a name with a dot.
    """

    def __init__(
        self,
        d_z: Width,
        d_out: Width,
        target: Positive,
        tasks: Annotated[list[str], NOT_EMPTY],
        task: str,
        by: Literal["film", "shift"] = "film",
        calibration: Mode = "batch",
    ):
        super().__init__(d_z, d_out, target, calibration)
        names = [str(name) for name in tasks]
        bad = [name for name in names if not name or "." in name]
        if bad or len(set(names)) < len(names):
            expected, remedy = "different names without dots", "set adapter.tasks=[main] adapter.task=main"
            raise UserError("adapter.tasks", str(names), expected, remedy)
        if task not in names:
            raise UserError("adapter.task", repr(task), f"one of {', '.join(names)}", f"set adapter.task={names[0]}")
        self.row = names.index(task)
        self.of = nn.Parameter(torch.zeros(1 + (by == "film"), len(names), d_out))  # v, then s

    def forward(self, z: Tensor) -> Tensor:
        u, own = super().forward(z), self.of[:, self.row]
        scaled = u if len(own) == 1 else (1 + own[1]) * u
        return scaled + own[0] * self.calibration.unit()
