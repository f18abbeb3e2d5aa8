"""What is logged is the share of each term, not its weight (specification B2.9).

At weight 0.5 the token-level terms were 85 % of the loss.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from lw_runs import config, fit, history
from omegaconf import open_dict

NAMES = ("answer_ce", "text_reconstruction", "embedding_reconstruction", "mismatch_hinge")


def test_the_share_says_who_drives_the_step_whatever_the_weights(tmp_path: Path) -> None:
    cfg = config(tmp_path, f"objective=[{','.join(NAMES)}]", "trainer.log_every_n_steps=1", lms=("llama", "qwen2"))
    with open_dict(cfg):
        cfg.objectives.answer_ce.weight.value = 0.5
    fit(cfg)
    steps = len(history(cfg, "train/loss"))
    assert steps == 12
    for i in range(steps):
        terms = {n: history(cfg, f"weight/{n}")[i] * history(cfg, f"train/loss/{n}")[i] for n in NAMES}
        shares = {n: history(cfg, f"share/{n}")[i] for n in NAMES}
        assert sum(shares.values()) == pytest.approx(1.0)
        assert history(cfg, "train/loss")[i] == pytest.approx(sum(terms.values()), rel=1e-5)
        for name in NAMES:
            assert shares[name] == pytest.approx(terms[name] / sum(terms.values()), rel=1e-4)
    assert history(cfg, "share/answer_ce")[0] > 1.5 * history(cfg, "share/embedding_reconstruction")[0], (
        "half the weight, and still the larger part: the weight does not tell"
    )


def test_generation_can_start_after_reconstruction_is_stable(tmp_path: Path) -> None:
    """An objective that has not begun costs nothing, has no share, and its head is not called dead."""
    cfg = config(tmp_path, "objective=[embedding_reconstruction,answer_ce]", "trainer.log_every_n_steps=1")
    with open_dict(cfg):
        cfg.objectives.answer_ce.weight = {"_target_": "latentwire.train.Delayed", "start": 5}
    fit(cfg)
    share = history(cfg, "share/answer_ce")
    assert len(share) == 12 - 5
    assert history(cfg, "weight/answer_ce") == [0.0] * 5 + [1.0] * 7
    assert all(0 < s < 1 for s in share)
