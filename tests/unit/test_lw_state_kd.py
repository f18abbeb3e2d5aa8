"""State KD: which states are kept, the loss against its formula, whom it teaches, and what it holds in memory."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lw_runs import config, fit, history, prepare
from lw_toys import FAMILIES, Family, tiny_lm
from test_lw_kd_memory import peak
from test_lw_objectives import answers, seen

from callbacks.errors import UserError
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import Prompt
from latentwire.lm.results import AnswerLogprobs
from latentwire.objectives.base import ReaderShape
from latentwire.objectives.state_kd import StateKD
from latentwire.objectives.teacher import ask_all
from latentwire.train.curriculum import Constant
from latentwire.train.parts import Part, parts

CONTEXTS, QUESTIONS, ANSWERS = [[40] * 9, [41] * 4], [[50, 51], [52, 53, 54]], [[60, 61, 2], [62, 2]]
SHORT = ["trainer.max_epochs=1", "loader.steps_per_epoch=4", "objective=[state_kd]"]
WHOLE = [*SHORT, "objectives.state_kd.layers=[1,2]"]


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_behind_which_tokens_of_answers_are_predicted(family: Family) -> None:
    lm = tiny_lm(family)
    kept = lm.answer_logprobs(Prefix(text_ids=CONTEXTS), QUESTIONS, ANSWERS, layers=[0, 1, 2])
    at = 0
    for context, question, answer in zip(CONTEXTS, QUESTIONS, ANSWERS, strict=True):
        ids = [*lm.style.head, *context, *question, *answer[:-1]]
        alone = lm.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        for number in (0, 1, 2):
            wanted = alone.hidden_states[number][0, -len(answer) :]
            torch.testing.assert_close(kept.states[number][at : at + len(answer)], wanted, rtol=0, atol=2e-4)
        at += len(answer)
    assert lm.answer_logprobs(Prefix(text_ids=CONTEXTS), QUESTIONS, ANSWERS).states == {}


def test_the_loss_is_the_weighted_mean_of_errors_over_the_teachers_size() -> None:
    a = answers([3, 1])
    own, theirs = (
        {n: torch.randn(4, 5, generator=torch.Generator().manual_seed(n + s)) for n in (1, 3)} for s in (0, 9)
    )
    objective = StateKD(Constant(), layers=[3, 1], layer_weights=[3.0, 1.0])
    objective.prepare({"lm": ReaderShape(5, 5, True, (1,), layers=4)}, 5)
    out = objective(replace(seen(answer=replace(a, states=own)), taught=theirs), "lm")
    total = 0.0
    for number, share in ((3, 0.75), (1, 0.25)):
        for places in ([0, 1, 2], [3]):
            for i in places:
                h, t = own[number][i], theirs[number][i]
                error = sum(float(x - y) ** 2 for x, y in zip(h, t, strict=True)) / sum(float(y) ** 2 for y in t)
                total += share * error / len(places) / 2
    assert float(out.loss) == pytest.approx(total, rel=1e-5)
    cosines = [torch.cosine_similarity(own[n], theirs[n], dim=1).mean() for n in (1, 3)]
    assert float(out.observed["state_cosine"]) == pytest.approx(float(sum(cosines)) / 2, rel=1e-5)
    double = StateKD(Constant(), layers=[3, 1], layer_weights=[6.0, 2.0])
    double.prepare({"lm": ReaderShape(5, 5, True, (1,), layers=4)}, 5)
    assert float(double(replace(seen(answer=replace(a, states=own)), taught=theirs), "lm").loss) == pytest.approx(total)
    same = objective(replace(seen(answer=replace(a, states=own)), taught=own), "lm")
    assert float(same.loss) == 0.0


@pytest.mark.parametrize("injector", ["soft_prefix", "deep_prefix", "latent_adapters", "coprocessor", "combined"])
def test_it_moves_encoder_adapter_and_injector_and_never_the_reader(injector: str, tmp_path: Path) -> None:
    more = ["injector.heads=2"] if injector in ("latent_adapters", "combined") else []
    # from the first state on, which is all that embeddings need; what every layer reads has to be heard behind the last
    last = [] if injector == "soft_prefix" else ["objectives.state_kd.layers=[1,2]"]
    cfg = config(tmp_path, *SHORT, f"injector={injector}", *more, *last)
    module: Any = prepare(cfg).module
    before = {name: x.detach().clone() for name, x in module.named_parameters()}
    done = fit(cfg)
    after = dict(done.module.named_parameters())
    groups = {name for name, params in module.groups().items() if params}
    assert {"encoder", "adapter:tiny_llama"} <= groups
    still = [name for name, x in before.items() if torch.equal(x, after[name])]
    assert not still
    for name, lm in done.module.lms.items():
        lm.verify(module.fingerprints[name])
        assert all(p.grad is None for p in lm.model.parameters())
    errors = history(cfg, "train/loss/state_kd")
    assert all(0 < x < 10 for x in errors)


def test_a_stage_that_would_leave_later_layers_untaught_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set objective=\[answer_ce,state_kd\]"):
        prepare(config(tmp_path, *SHORT, "objectives.state_kd.layers=[1]"))
    fit(config(tmp_path, *SHORT, "objective=[answer_ce,state_kd]", "objectives.state_kd.layers=[1]"))


def test_the_teacher_is_the_bare_model_on_the_text_whatever_the_reader_has_learned(tmp_path: Path) -> None:
    lora = "+adaptation.tiny_llama={_target_:latentwire.lm.LoRA,rank:2}"
    built = prepare(config(tmp_path, *WHOLE, lora))
    module: Any = built.module
    batch: Any = built.train.dataset.__getitems__([(i, 0) for i in range(3)])
    (name, lm), bare = next(iter(module.lms.items())), tiny_lm()
    with torch.no_grad():
        for p in module.wire.lora[name].parameters():
            p.fill_(0.5)
    asked = [
        Prompt(lm.style.head, tuple(c), tuple(q), (), tuple(a))
        for c, q, a in zip(CONTEXTS, QUESTIONS, ANSWERS, strict=True)
    ]
    _, states = ask_all(lm, asked, 4, [1])
    wanted = bare.answer_logprobs(Prefix(text_ids=CONTEXTS), QUESTIONS, ANSWERS, layers=[1]).states[1]
    assert torch.equal(states[1], wanted)
    assert not states[1].requires_grad
    adapted = lm.answer_logprobs(Prefix(text_ids=CONTEXTS), QUESTIONS, ANSWERS, layers=[1]).states[1]
    assert not torch.allclose(adapted, wanted)
    assert [len(p.asked) for p in (Part(batch.asked, batch.rows), *parts(batch, 2))] == [6, 2, 4]


def test_parts_of_a_batch_make_the_step_of_the_whole(tmp_path: Path) -> None:
    whole = fit(config(tmp_path, *WHOLE)).module.state_dict()
    both = fit(config(tmp_path, *WHOLE, "loader.accumulate=2", runs="parts")).module.state_dict()
    cached = ["objective=[state_kd,answer_kd]", "loader.steps_per_epoch=2"]
    for name, x in whole.items():
        torch.testing.assert_close(both[name], x, rtol=0, atol=1e-4, msg=name)
    asked = fit(config(tmp_path, *WHOLE, *cached, runs="asked")).module.state_dict()
    kept = fit(config(tmp_path, *WHOLE, *cached, "teacher.cache=true", runs="kept")).module.state_dict()
    for name, x in asked.items():
        torch.testing.assert_close(kept[name], x, rtol=0, atol=1e-4, msg=name)


def test_of_the_teacher_states_are_kept_at_tokens_of_answers_alone() -> None:
    lm, long = tiny_lm(), [[40] * 200] * 2
    prompts = [Prompt(lm.style.head, tuple(c), (50,) * 4, (), (60, 61, 2)) for c in long]
    found: list[Any] = []
    before = peak(lambda: found.append(ask_all(lm, prompts, 4, [])))
    tokens, states = ask_all(lm, prompts, 4, [1, 2])
    held = sum(x.untyped_storage().nbytes() for x in states.values())
    assert held == 2 * 6 * lm.d_hidden * 4  # L N d_hidden numbers of four bytes, no view of more
    after = peak(lambda: found.append(ask_all(lm, prompts, 4, [1, 2])))
    assert after - before <= held + 2 * 6 * 8 * 4  # and the places where they are
    assert tokens.ids.shape == (6, 4)


@pytest.mark.parametrize(
    ("layers", "weights", "where"),
    [([3], None, "layers"), ([1, 1], None, "layers"), ([1, 2], [1.0], "layer_weights"), (None, [1.0], "layer_weights")],
)
def test_states_that_are_not_there_are_refused(layers: Any, weights: Any, where: str) -> None:
    with pytest.raises(UserError, match=where):
        StateKD(Constant(), layers, weights).prepare({"lm": ReaderShape(5, 5, True, (1,), layers=2)}, 5)
    shape = ReaderShape(5, 5, False, (1,), layers=6, first_state=2)
    with pytest.raises(UserError, match="from 2 to 6"):
        StateKD(Constant(), [1]).prepare({"lm": shape}, 5)
    default = StateKD(Constant())
    default.prepare({"lm": shape, "small": ReaderShape(5, 5, True, (1,), layers=1)}, 5)
    assert copy.copy(default.compares) == {"lm": [2, 3], "small": [1]}


def test_rows_that_are_read_apart_are_joined_with_their_states() -> None:
    lm = tiny_lm()
    alone = [
        lm.answer_logprobs(Prefix(text_ids=[c]), [q], [a], layers=[1])
        for c, q, a in zip(CONTEXTS, QUESTIONS, ANSWERS, strict=True)
    ]
    both = lm.answer_logprobs(Prefix(text_ids=CONTEXTS), QUESTIONS, ANSWERS, layers=[1])
    torch.testing.assert_close(AnswerLogprobs.joined(alone).states[1], both.states[1], rtol=0, atol=1e-4)
