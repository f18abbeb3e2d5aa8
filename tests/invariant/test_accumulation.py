"""Encoders that take a batch in parts give the step of the undivided batch, whatever a method does with features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from asgml_runs import config, fit, write_features

from callbacks.errors import UserError

LINES = {
    "joint": ["method=joint", "asgml.mode=sync"],
    "modulated, split gradients": ["method=[ogm_ge,mmpareto]", "asgml.mode=sync"],
    "stale and missing": ["asgml.mode=staleness", "asgml.tau=2", "+loader.missing.visual=0.3"],
    "held": ["asgml.mode=frequency", "asgml.k=2", "asgml.masking=hard"],
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_three_parts_are_one_batch(line: list[str], tmp_path: Path) -> None:
    npz = write_features(tmp_path / "f.npz")
    weights = []
    for parts in (1, 3):
        runs = tmp_path / f"runs{parts}"
        cfg = config(
            npz, runs, "trainer.max_epochs=1", "trainer.precision=64-true", f"loader.accumulate={parts}", *line
        )
        weights.append(fit(cfg).module.net.state_dict())
    one, three = weights
    for name in one:
        torch.testing.assert_close(three[name], one[name], rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def test_no_more_than_a_part_is_held(tmp_path: Path) -> None:
    """What is saved for the backward pass, beside the inputs, comes with the number of parts."""
    npz = write_features(tmp_path / "f.npz", kind="image")
    held = []
    for parts in (1, 4):
        cfg = config(npz, tmp_path / f"runs{parts}", "method=joint", "asgml.mode=sync", f"loader.accumulate={parts}")
        module = fit(cfg).module
        x = torch.randn(8, 1, 16, 16)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, k=kept: k.append(t.nbytes) or t, lambda t: t):
            module.forward_pass._in_parts("visual", x, None)
        held.append(sum(kept))
    assert held[1] < held[0] / 2


def test_batch_norm_is_refused(tmp_path: Path) -> None:
    npz = write_features(tmp_path / "f.npz", kind="image")
    with pytest.raises(UserError, match="batch norm would see each part alone") as told:
        fit(config(npz, tmp_path / "runs", "model=small_bn", "loader.accumulate=2"))
    assert "loader.accumulate=1" in told.value.remedy
