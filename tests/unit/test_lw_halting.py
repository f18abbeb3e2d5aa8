"""A refiner of learned depth: the weights of its states, slot by slot, and what a layer costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lw_runs import config, fit, history, prepare

from callbacks.errors import UserError
from latentwire.encoders.halting import EPS, HaltingTransformer

OBJECTIVES = "objective=[answer_ce,refiner_depth]"


def refiner(layers: int = 3, seed: int = 0) -> HaltingTransformer:
    torch.manual_seed(seed)
    made = HaltingTransformer(8, layers, 2).double()
    for halt in made.halts:
        torch.nn.init.normal_(halt.weight, std=1.0)
        torch.nn.init.normal_(halt.bias)
    return made


def test_every_slot_halts_where_its_probabilities_have_used_up_one() -> None:
    """Literally, slot by slot, and on the states of all layers."""
    depths = set()
    for seed in range(6):
        made = refiner(seed=seed)
        x = torch.randn(2, 5, 8, dtype=torch.float64)
        states = [x]
        for block in made.blocks:
            states.append(block(states[-1], None, torch.arange(5)))
        expected, depth = torch.zeros_like(x), torch.zeros(2, 5, dtype=torch.float64)
        for b in range(2):
            for j in range(5):
                used = 0.0
                for level, h in enumerate(states):
                    end = level == 3
                    chance = 1.0 if end else float(torch.sigmoid(made.halts[level](F.layer_norm(h[b, j], (8,)))))
                    p = 1 - used if end or used + chance >= 1 - EPS else chance
                    expected[b, j] += p * h[b, j]
                    depth[b, j] += level * p
                    used += p
                    if used >= 1 - EPS / 2:
                        depths.add(level)
                        break
        torch.testing.assert_close(made.eval()(x), expected)
        torch.testing.assert_close(made.train()(x), expected)
        torch.testing.assert_close(made.take()["depth"], depth.mean(1))
        assert made.take() == {}
    assert len(depths) > 1, "slots of different depths"


def test_layers_that_nobody_needs_are_computed_in_training_alone() -> None:
    made = refiner()
    torch.nn.init.constant_(made.halts[0].bias, 50.0)
    torch.nn.init.zeros_(made.halts[0].weight)
    computed: list[int] = []
    for block in made.blocks:
        block.register_forward_hook(lambda *_: computed.append(1))
    x = torch.randn(1, 4, 8, dtype=torch.float64)
    assert torch.equal(made.eval()(x), x)
    assert computed == []
    made.train()(x).sum().backward()
    assert len(computed) == 3
    assert all(p.grad is not None for p in made.blocks.parameters())


def test_a_price_makes_the_refiner_shallow(tmp_path: Path) -> None:
    settings = ["encoder.halting=true", "encoder.refiner_layers=2", OBJECTIVES, "trainer.log_every_n_steps=1",
                "trainer.max_epochs=2", "group_lr.encoder=0.03"]  # fmt: skip
    cheap, dear = (
        config(tmp_path, *settings, f"objectives.refiner_depth.weight.value={w}", runs=str(w)) for w in (1e-9, 20.0)
    )
    fit(cheap)
    fit(dear)
    assert history(dear, "train/depth")[-1] < 0.7 * history(dear, "train/depth")[0]
    assert history(dear, "train/depth")[-1] < history(cheap, "train/depth")[-1]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"objectives\.refiner_depth(.|\n)*encoder\.halting=true"):
        prepare(config(tmp_path, OBJECTIVES))
    with pytest.raises(UserError, match="0 layers"):
        prepare(config(tmp_path, "encoder.halting=true", "encoder.refiner_layers=0"))
