"""Nested budgets: how often a prefix is read, that it is what is read, and what cannot be together with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lw_parts import TEXTS, TRAINED, make_encoder
from lw_runs import config, fit, history, prepare
from omegaconf import open_dict

from callbacks.errors import UserError
from latentwire.encoders.slots import LatentLayout, message_order
from latentwire.stages import stages_of
from latentwire.train.nested import Nested, NestedBudgets, NestedGeometric, budgets, refuse_unordered

LISTED = "+wire.nested={_target_:latentwire.train.NestedBudgets,budgets:[1,2]}"
SEED = 4  # 3, 2, 3, 1 in the first four steps
WHOLE = "+wire.nested={_target_:latentwire.train.NestedBudgets,budgets:[1],full:1.0}"


# -- the law ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("law", "expected"),
    [
        (NestedBudgets([13, 7]), {7: 1 / 3, 13: 1 / 3, 26: 1 / 3}),
        (NestedBudgets([26, 13, 7]), {7: 1 / 3, 13: 1 / 3, 26: 1 / 3}),
        (NestedBudgets([7, 13], full=0.5), {7: 0.25, 13: 0.25, 26: 0.5}),
        (NestedBudgets([7], full=1.0), {26: 1.0}),
        (NestedBudgets([26], full=0.5), {26: 1.0}),
        (NestedGeometric(0.5, full=0.2, least=24), {24: 0.4, 25: 0.2, 26: 0.4}),
    ],
)
def test_every_length_is_drawn_as_often_as_declared(law: Nested, expected: dict[int, float]) -> None:
    assert law.shares(26) == pytest.approx(expected)
    n = 4000
    drawn = [law.draw(26, seed=3, step=t) for t in range(n)]
    for length, share in expected.items():
        assert abs(drawn.count(length) / n - share) <= 4 * np.sqrt(share * (1 - share) / n), length
    assert set(drawn) == set(expected)


def test_a_geometric_law_is_its_formula_and_gives_the_whole_message_the_rest() -> None:
    found = NestedGeometric(0.1, full=0.25).shares(26)
    for k in range(1, 26):
        assert found[k] == pytest.approx(0.75 * 0.1 * 0.9 ** (k - 1))
    assert found[26] == pytest.approx(0.25 + 0.75 * 0.9**25)
    assert sum(found.values()) == pytest.approx(1.0)


def test_a_draw_is_of_its_seed_and_step_alone() -> None:
    law = NestedGeometric(0.1)
    drawn = [law.draw(26, 0, t) for t in range(50)]
    backwards = [law.draw(26, 0, t) for t in reversed(range(50))]
    assert drawn == backwards[::-1]
    assert drawn != [law.draw(26, 1, t) for t in range(50)]
    state = torch.random.get_rng_state(), np.random.get_state()[1]
    law.draw(26, 0, 0)
    assert torch.equal(state[0], torch.random.get_rng_state())
    assert (state[1] == np.random.get_state()[1]).all()


def test_lengths_that_a_message_does_not_have_are_refused() -> None:
    with pytest.raises(UserError, match="30 slots of a message that has 26") as told:
        NestedBudgets([30, 7]).shares(26)
    assert "wire.nested.budgets=[7], or wire.slots=30" in told.value.remedy
    with pytest.raises(UserError, match="at most 3"):
        NestedGeometric(least=4).shares(3)
    assert budgets(NestedBudgets([2]), 3) == (2, 3)
    assert budgets(NestedBudgets([2], full=1.0), 3) == budgets(None, 3) == ()


# -- training ---------------------------------------------------------------------------------------------------------
def test_a_step_reads_the_prefix_that_is_drawn(tmp_path: Path) -> None:
    """Literally: the loss of step t is that of an un-nested step on the first k slots of the same messages."""
    cfg = config(
        tmp_path, LISTED, "adapter.dropout=0.0", "trainer.max_epochs=1", "trainer.log_every_n_steps=1", f"seed={SEED}"
    )
    parts = fit(cfg)
    batch = next(iter(parts.train))
    law, module = NestedBudgets([1, 2]), parts.module
    lengths = [law.draw(3, SEED, t) for t in range(6)]
    assert set(lengths) == {1, 2, 3}, "all of them within the steps of this test"

    class At:
        t = 0

    module._pipeline = At()  # type: ignore[assignment]
    for t, k in enumerate(lengths[:4]):
        At.t = t
        coded, found = module.objective_outputs(batch, dict(module.objectives))
        values = module.wire.latents(batch.tokens).values
        assert torch.equal(coded.values, values[:, :k])
        prefix = module.wire.injectors["tiny_llama"](values[:, :k])
        rows = batch.rows["tiny_llama"]["answer"]
        scored = module.lms["tiny_llama"].answer_logprobs(prefix.select(rows.source), rows.question, rows.answer)
        assert torch.equal(found["tiny_llama"]["answer_ce"].loss, scored.nll().mean())
    assert history(cfg, "train/slots") == lengths


def test_whole_messages_alone_are_a_training_that_knows_no_budgets(tmp_path: Path) -> None:
    more = ["trainer.max_epochs=1", "loader.steps_per_epoch=3", "loader.eval_passages=1"]
    nested, plain = (fit(config(tmp_path, *more, *law, runs=str(n))) for n, law in enumerate(([WHOLE], [])))
    assert nested.module.nested is not None
    assert nested.module.wire.layout.budgets == ()
    a, b = nested.module.state_dict(), plain.module.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert nested.module.metrics == plain.module.metrics


# -- what cannot be ---------------------------------------------------------------------------------------------------
def test_what_does_not_go_with_prefixes_is_refused_on_one_screen(tmp_path: Path) -> None:
    cfg = config(
        tmp_path,
        LISTED,
        "wire.slots=2",
        "wire.nested.budgets=[9]",
        "wire.private={tiny_llama:1}",
        "curriculum=ratio",
        "objective=[answer_ce,embedding_reconstruction]",
    )
    with pytest.raises(UserError) as told:
        stages_of(cfg)
    error = str(told.value)
    for said in (
        "wire.private with wire.nested",
        "stages.0.ratio with wire.nested",
        "set stages.0.ratio=null",
        "objectives.embedding_reconstruction with wire.nested",
        "add ~objectives.embedding_reconstruction",
        "9 slots of a message that has 2",
    ):
        assert said in error, said
    with open_dict(cfg):
        cfg.stages[0].ratio, cfg.wire.private, cfg.wire.nested.budgets = None, {}, [1]
        del cfg.objectives["embedding_reconstruction"]
    stages_of(cfg)


def test_an_encoder_whose_first_slot_ends_before_the_text_is_refused() -> None:
    layout = LatentLayout(3)
    for name in TRAINED:
        refuse_unordered(make_encoder(name), TEXTS, layout)
    for local in (make_encoder("pca"), make_encoder("lm_hidden", refiner_layers=0)):
        with pytest.raises(UserError, match="does not depend on the end of the text"):
            refuse_unordered(local, TEXTS, layout)


def test_a_layout_knows_what_it_may_be_cut_to() -> None:
    layout = LatentLayout(3, budgets=(1, 3))
    assert layout.prefix(3, "m") is layout
    assert layout.prefix(2, "m").slots == 2, "between the budgets as well"
    assert layout.prefix(1, "m").identity() != layout.identity()
    assert LatentLayout(3).identity() == layout.identity(), "budgets give a message no other meaning"
    for slots in (0, 4):
        with pytest.raises(UserError, match="1 to 3"):
            layout.prefix(slots, "m")
    with pytest.raises(UserError, match=r"m.*\n.*2 slots(.|\n)*not trained to be read in part(.|\n)*curriculum=nested"):
        LatentLayout(3).prefix(2, "m")


# -- the order of slots -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("slots", [1, 2, 7, 26, 64])
def test_every_prefix_of_a_message_is_spread_over_the_text(slots: int) -> None:
    order = message_order(slots)
    assert sorted(order) == list(range(slots))
    for k in range(1, slots + 1):
        places = sorted(order[:k])
        gaps = np.diff([*places, slots]).max()
        assert gaps <= 2 * slots / k + 1, (k, places)


def test_half_and_a_quarter_are_every_second_and_every_fourth() -> None:
    order = message_order(26)
    assert sorted(order[:13]) == list(range(0, 26, 2))
    assert sorted(order[:7]) == list(range(0, 26, 4))


def test_a_spread_wire_starts_as_the_same_wire_with_its_slots_in_another_order(tmp_path: Path) -> None:
    started = {}
    for order in ("text", "spread"):
        node = f"+wire.nested={{_target_:latentwire.train.NestedBudgets,budgets:[2,3],order:{order}}}"
        wire = prepare(config(tmp_path, "wire.slots=6", node, runs=order)).module.wire
        values = wire.eval().encode(TEXTS)
        kv = wire.prefix(values, "tiny_llama").kv
        assert kv is not None
        started[order] = (values, kv[-1][1].detach())  # values of the last layer: no position is in them
        assert wire.layout.identity() == {"shared": 6} | ({".spread": 1} if order == "spread" else {})
    places = message_order(6)
    assert places != list(range(6))
    torch.testing.assert_close(started["spread"][0], started["text"][0][:, places])
    torch.testing.assert_close(started["spread"][1], started["text"][1][:, :, places], rtol=1e-4, atol=1e-5)
