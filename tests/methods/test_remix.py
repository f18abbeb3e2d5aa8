"""Data remixing against a slow transcription (Ma et al., ICML 2025)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from asgml_runs import config, fit
from methods_toys import cross_entropy, mean, observe, softmax
from toys import SGD

from asgml.methods.base import Epoch, Survey
from asgml.methods.remix import Remix

NAMES = ["audio", "visual", "text"]


def survey(modalities: int, n: int = 30) -> Survey:
    draw = torch.Generator().manual_seed(4)
    names = NAMES[:modalities]
    unimodal = {m: 2 * torch.randn(n, 4, generator=draw) for m in names}
    present = {m: torch.rand(n, generator=draw) > 0.2 for m in names}
    present["audio"] |= ~torch.stack(list(present.values())).any(0)
    y = torch.randint(4, (n,), generator=draw)
    return Survey(torch.arange(n) + 100, y, present, unimodal, unimodal, lambda m: unimodal[m[0]])


def hardest(found: Survey, i: int) -> str:
    """The modality that is there and nearest to the uniform distribution."""
    kl = {}
    for m, z in found.unimodal.items():
        if bool(found.present[m][i]):
            kl[m] = sum(p * math.log2(p / 0.25) for p in softmax(z[i].tolist()))
    return min(kl, key=lambda m: kl[m])


@pytest.mark.parametrize("modalities", [2, 3])
def test_every_sample_goes_once_to_the_modality_that_is_least_sure_of_it(modalities):
    found = survey(modalities)
    method = Remix(begins=2)
    method.prepare("remix", list(found.unimodal), 4, 0)

    def at(number: int) -> Any:
        return method.select(Epoch(number, 5, {}, lambda split: {"train": found}[split], lambda m, a: None))

    assert at(1) is None
    chosen = at(2)
    assert sorted(chosen.index.tolist()) == found.index.tolist()
    order = []
    for j, i in enumerate((chosen.index - 100).tolist()):
        kept = [m for m in found.unimodal if not bool(chosen.drop[m][j])]
        assert kept == [hardest(found, i)]
        order.append(list(found.unimodal).index(kept[0]))
    assert order == sorted(order)
    assert len(set(order)) == modalities
    assert torch.equal(at(2).index, chosen.index)
    assert not torch.equal(at(3).index, chosen.index)


@pytest.mark.parametrize(("begins", "weight"), [(1, 2.0), (5, 0.5)])
def test_the_unimodal_losses_have_the_weight_of_their_epoch(begins, weight, monkeypatch):
    def more(module):
        return {k: v.item() for k, v in module.methods["remix"].loss(module.step).items()}

    method = Remix(begins=begins, alpha=0.5, gamma=2.0)
    monkeypatch.setattr(Remix, "select", lambda *_: None)
    _, capture = observe({"remix": method}, 3, steps=4, epochs=2, more=more, optimizer=SGD)
    for t, seen in enumerate(capture.seen):
        w = weight if t >= 4 else 0.5
        here = [m for m in seen.rows if seen.rows[m]]
        expected = {m: w * mean([cross_entropy(seen.unimodal[m][i], seen.y[i]) for i in seen.rows[m]]) for m in here}
        assert seen.more == pytest.approx(expected, rel=1e-6)


def test_in_a_run_all_batches_but_one_hold_one_modality(features: dict[int, Path], tmp_path: Path) -> None:
    seen: dict[int, list[set[str]]] = {}

    class Look(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            seen.setdefault(trainer.current_epoch, []).append({m for m, x in batch["x"].items() if len(x)})

    cfg = config(features[2], tmp_path, "method=remix", "methods.remix.begins=1", "callbacks.probe=null")
    fit(cfg, [Look()])
    assert all(len(m) == 2 for m in seen[0])
    assert sum(len(m) > 1 for m in seen[1]) <= 1
    assert set.union(*seen[1]) == {"audio", "visual"}
