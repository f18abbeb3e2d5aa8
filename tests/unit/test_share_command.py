"""`python -m asgml.feedback.share`: all variants at one denominator; what a branch does by its size and direction."""

from __future__ import annotations

import json

import pytest
from torch import nn

from asgml.feedback.branch_shares import BRANCHES, SYSTEMS, measure
from asgml.feedback.share import main
from asgml.model.cross_attention import VARIANTS
from callbacks.stages.branch import switched


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    out = tmp_path_factory.mktemp("share") / "rows.json"
    assert main(["--context", "7", "--json", str(out)]) == 0
    return {row["name"]: row for row in json.loads(out.read_text())}


def test_all_variants_have_one_and_the_same_denominator_per_seed(rows):
    denominators = [rows[f"cross_attention {v}"]["references"] for v in VARIANTS]
    assert all(row == denominators[0] for row in denominators)
    assert len(set(denominators[0])) == 10


def test_the_full_branch_starves_the_encoder_by_its_size_and_the_matched_one_does_not(rows):
    full, matched = rows["cross_attention full"], rows["cross_attention norm_matched"]
    assert full["share"]["high"] < 0.8 < matched["share"]["low"]
    assert full["norm_ratio"] > 1
    assert full["size"] < 0.5 < 1 < full["direction"]
    assert matched["norm_ratio"] == pytest.approx(0.1, rel=1e-5)
    assert rows["cross_attention learnable"]["share"] == matched["share"]  # at the start
    assert rows["cross_attention scaled"]["norm_ratio"] == pytest.approx(full["norm_ratio"] / 10, rel=1e-5)


def test_every_fusion_with_a_branch_is_measured(rows):
    assert set(rows) == set(SYSTEMS["fusions"])
    assert all(row["share"]["low"] < row["share"]["mean"] < row["share"]["high"] for row in rows.values())


def test_the_share_is_that_of_plain_backward_passes():
    towers = BRANCHES["gated"](2.0)
    shares = []
    for seed in range(10):
        norms = []
        for mode in ("on", "off"):
            towers.net.zero_grad()
            with switched(towers.joins, mode):
                towers.loss(seed).backward()
            norms.append(norm(towers.under_test))
        shares.append(norms[0] / norms[1])
    assert measure("gated", 2.0, range(10)).share.mean == pytest.approx(sum(shares) / 10, rel=1e-5)


def norm(module: nn.Module) -> float:
    return sum(p.grad.square().sum().item() for p in module.parameters()) ** 0.5


@pytest.mark.slow
def test_the_adapters_of_a_clip_keep_their_gradient_beside_a_matched_branch():
    row = measure("clip norm_matched", 7.0, range(10))
    assert row.norm_ratio == pytest.approx(0.1, rel=1e-4)
    assert 0.9 < row.share.mean < 1.1
    assert row.size == pytest.approx(1.0, abs=0.02)


def test_what_it_refuses(capsys):
    assert main(["--seeds", "3"]) == 2
    assert "at least 10: one draw is noise" in capsys.readouterr().err
    assert main(["--branches", "concat"]) == 2
    assert "'gated'" in capsys.readouterr().err
    assert main(["--branches", "gated", "--context", "nan"]) == 2
    assert "--context 1 7" in capsys.readouterr().err
