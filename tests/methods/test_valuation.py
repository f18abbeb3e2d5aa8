"""Modality valuation against a slow transcription (Wei et al., CVPR 2024)."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from asgml_runs import config, fit

from asgml.methods.base import Epoch, Survey
from asgml.methods.valuation import Valuation, contributions

NAMES = ["audio", "visual", "text"]


def game(modalities: int, n: int = 24) -> tuple[Survey, dict[frozenset[str], list[bool]]]:
    """A survey whose fused prediction from each subset is right or wrong at random; a table of which."""
    draw = torch.Generator().manual_seed(2)
    names = NAMES[:modalities]
    y = torch.randint(3, (n,), generator=draw)
    present = {m: torch.rand(n, generator=draw) > 0.2 for m in names}
    present["audio"] |= ~torch.stack(list(present.values())).any(0)
    right: dict[frozenset[str], list[bool]] = {}

    def logits(subset: list[str]) -> torch.Tensor:
        key = frozenset(subset)
        if key not in right:
            right[key] = (torch.rand(n, generator=draw) > 0.5).tolist()
        guess = torch.where(torch.tensor(right[key]), y, (y + 1) % 3)
        return torch.nn.functional.one_hot(guess, 3).float()

    features = {m: torch.zeros(n, 1) for m in names}
    return Survey(torch.arange(n), y, present, features, features, logits), right


def slow_phi(right: dict[frozenset[str], list[bool]], present: dict[str, Any], m: str, i: int) -> float:
    """Mean gain of m over all orders in which the modalities arrive."""

    def v(subset: frozenset[str]) -> float:
        there = [k for k in subset if bool(present[k][i])]
        return float(len(there)) if subset and right[subset][i] else 0.0

    if not bool(present[m][i]):
        return 1.0
    orders = list(permutations(present))
    return sum(v(frozenset(o[: o.index(m)]) | {m}) - v(frozenset(o[: o.index(m)])) for o in orders) / len(orders)


@pytest.mark.parametrize("modalities", [2, 3])
def test_contributions_are_shapley_values_over_all_orders(modalities):
    survey, right = game(modalities)
    found = contributions(survey)
    for m in survey.features:
        for i in range(len(survey.y)):
            assert float(found[m][i]) == pytest.approx(slow_phi(right, survey.present, m, i), abs=1e-6)


def test_a_sample_is_added_as_often_as_published():
    phi = {"audio": torch.tensor([1.0, 0.5, 0.0, -0.5, 1.5]), "visual": torch.tensor([1.0, 1.5, 0.0, 0.5, 0.5])}
    method = Valuation()
    everyone = {m: torch.ones(5, dtype=torch.bool) for m in phi}
    rows = method.added(phi, everyone, torch.Generator())
    assert rows["audio"].tolist() == [1, 2, 2, 3, 3, 3]
    assert rows["visual"].tolist() == [2, 2, 3, 4]


def test_the_weakest_modality_is_added_in_proportion_to_the_gap():
    phi = {"audio": torch.full((100,), 0.9), "visual": torch.full((100,), 0.3)}
    everyone = {m: torch.ones(100, dtype=torch.bool) for m in phi}
    rows = Valuation(level="modality", strength=0.5).added(phi, everyone, torch.Generator())
    assert list(rows) == ["visual"]
    assert len(set(rows["visual"].tolist())) == 30


def test_an_epoch_keeps_its_size_and_what_is_added_comes_alone():
    survey, _ = game(3)
    method = Valuation(begins=1)
    method.prepare("valuation", NAMES, 3, 0)
    epoch = Epoch(1, 3, {}, lambda split: survey, lambda m, a: None)
    assert method.select(Epoch(0, 3, {}, lambda split: survey, lambda m, a: None)) is None
    chosen = method.select(epoch)
    assert chosen is not None
    assert len(chosen.index) == len(survey.y)
    dropped = torch.stack(list(chosen.drop.values())).sum(0)
    assert set(dropped.tolist()) == {0, 2}
    whole = chosen.index[dropped == 0].tolist()
    assert len(whole) == len(set(whole))
    for m in NAMES:
        alone = (dropped == 2) & ~chosen.drop[m]
        assert alone.any()
        assert bool(survey.present[m][chosen.index[alone]].all())
        assert (contributions(survey)[m][chosen.index[alone]] < 1).all()
    again = method.select(epoch)
    assert again is not None
    assert torch.equal(again.index, chosen.index)


def test_in_a_run_the_batches_hold_what_was_selected(features: dict[int, Path], tmp_path: Path) -> None:
    got: dict[int, list[tuple[int, tuple[bool, ...]]]] = {}
    planned: dict[int, Any] = {}

    class Look(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            size = len(batch["y"])
            masks = [
                torch.ones(size, dtype=torch.bool)
                if r is None
                else torch.zeros(size, dtype=torch.bool).index_fill(0, r, True)
                for r in batch["rows"].values()
            ]
            rows = zip(batch["index"].tolist(), torch.stack(masks, 1).tolist(), strict=True)
            got.setdefault(trainer.current_epoch, []).extend((i, tuple(p)) for i, p in rows)
            planned[trainer.current_epoch] = pl_module._pipeline.stage("modulation").selection

    cfg = config(features[2], tmp_path, "method=valuation", "methods.valuation.begins=1", "callbacks.probe=null")
    parts = fit(cfg, [Look()])
    table = parts.data.table("train")
    assert planned[0] is None
    assert sorted(i for i, _ in got[0]) == list(range(32))
    chosen = planned[1]
    expected = [
        (int(i), tuple(bool(table.present[m][i]) and not bool(chosen.drop[m][j]) for m in table.x))
        for j, i in enumerate(chosen.index.tolist())
    ]
    assert got[1] == expected
    assert sorted(i for i, _ in got[1]) != list(range(32))
