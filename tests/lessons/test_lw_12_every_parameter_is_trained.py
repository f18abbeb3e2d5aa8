"""Every trainable parameter is trained, once (specification B2.12).

There were parameters in two groups, adapters applied in one loss of five, and adapters that the optimiser never had.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lw_runs import config, prepare

from callbacks.errors import UserError
from callbacks.run.audit import AuditFailure


def run(parts: Any) -> None:
    parts.trainer.fit(parts.module, parts.train, parts.val)


def test_a_sound_wire_passes(tmp_path: Path) -> None:
    parts = prepare(config(tmp_path, "objective=[answer_ce,embedding_reconstruction]", lms=("llama", "qwen2")))
    run(parts)
    audit = next(c for c in parts.trainer.callbacks if type(c).__name__ == "TrainableAudit")
    assert audit.passed


def test_an_adapter_that_nobody_gave_to_the_optimiser_is_named(tmp_path: Path) -> None:
    parts = prepare(config(tmp_path, lms=("llama", "qwen2")))
    inner = parts.module.groups
    parts.module.groups = lambda: {k: v for k, v in inner().items() if k != "adapter:tiny_qwen2"}
    with pytest.raises(AuditFailure, match=r"in no group of the optimiser: wire\.injectors\.tiny_qwen2\.adapter"):
        run(parts)


def test_a_parameter_in_two_groups_is_refused(tmp_path: Path) -> None:
    parts = prepare(config(tmp_path))
    inner = parts.module.groups
    parts.module.groups = lambda: {**inner(), "again": inner()["codec" if "codec" in inner() else "encoder"][:1]}
    with pytest.raises((UserError, ValueError), match=r"is in|more than one parameter group"):
        run(parts)


def test_a_part_that_no_loss_reaches_stops_the_run_within_n_steps_and_is_named(tmp_path: Path) -> None:
    """Adapters of the second model, used in no loss."""
    parts = prepare(config(tmp_path, lms=("llama", "qwen2")))
    inner = parts.module.wire.prefix

    def detached(values: torch.Tensor, model: str, layout: Any = None) -> Any:
        found = inner(values, model, layout)
        if model == "tiny_qwen2":
            found.kv = [(k.detach(), v.detach()) for k, v in found.kv]
        return found

    parts.module.wire.prefix = detached
    with pytest.raises(AuditFailure, match=r"no gradient in 4 steps: wire\.injectors\.tiny_qwen2"):
        run(parts)
    assert parts.pipeline.t == 3, "named before the fourth step is taken"


def test_a_trained_tensor_that_is_no_parameter_of_the_module_is_refused(tmp_path: Path) -> None:
    parts = prepare(config(tmp_path))
    inner = parts.module.groups
    parts.module.groups = lambda: {**inner(), "stray": [torch.nn.Parameter(torch.ones(2, 3))]}
    with pytest.raises(AuditFailure, match=r"a tensor \(2, 3\) of group 'stray' is no parameter of the module"):
        run(parts)
