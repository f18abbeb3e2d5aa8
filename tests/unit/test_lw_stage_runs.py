"""Stages in small runs: reconstruct, then generate, without a list of groups; what does not fit is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lw_runs import config, fit, history, prepare, rows
from omegaconf import open_dict

from callbacks.errors import UserError
from callbacks.run.audit import AuditFailure
from callbacks.stages.lr import LRSchedule, lr_factor
from latentwire.train.curriculum import Constant
from suite.runs.job import execute

RECIPE = "objective=[embedding_reconstruction,answer_ce]"
CRITERION = {"_target_": "latentwire.train.Criterion", "above": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lw")


def staged(cfg: Any, *stages: dict[str, Any]) -> Any:
    with open_dict(cfg):
        cfg.stages = [{"_target_": "latentwire.train.Period", **stage} for stage in stages]
    return cfg


class Noted(L.Callback):
    """Notes how many texts each training step encodes, and at which rates it moves."""

    def __init__(self) -> None:
        self.encoded: list[int] = []
        self.rates: dict[str, list[float]] = {}
        self.refits: list[int] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        inner = pl_module.wire.latents

        def latents(tokens: Any, layout: Any = None) -> Any:
            if pl_module.training:
                self.encoded.append(len(tokens.ids))
            return inner(tokens, layout)

        pl_module.wire.latents = latents
        refit = pl_module.wire.refit
        pl_module.wire.refit = lambda *given: (self.refits.append(len(self.encoded)), refit(*given))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        for options in optimizer.param_groups:
            self.rates.setdefault(options["name"], []).append(options["lr"])


def test_reconstruct_then_generate_needs_no_list_of_groups(folder: Path) -> None:
    """Twelve steps, the first six of which reach no key and no value; the audit counts to four."""
    cfg = config(folder, RECIPE, "seed=1", "trainer.log_every_n_steps=1", "callbacks.diagnostics.every=1",
                 "lr_schedule=cosine")  # fmt: skip
    cosine = {"_target_": "callbacks.LRSchedule", "kind": "cosine", "warmup_steps": 2}
    first = {"name": "reconstruct", "weights": {"embedding_reconstruction": 1.0}, "batch_size": 2,
             "group_lr": {"adapter": 0.01, "head": 0.0}, "lr_schedule": cosine}  # fmt: skip
    second = {"name": "generate", "weights": {"answer_ce": 1.0, "embedding_reconstruction": 0.1}, "batch_size": 5,
              "refit": True}  # fmt: skip
    noted = Noted()
    parts = fit(staged(cfg, first, second), [noted])
    audit: Any = next(c for c in parts.trainer.callbacks if type(c).__name__ == "TrainableAudit")  # type: ignore[attr-defined]
    assert audit.passed
    assert noted.encoded == [2] * 6 + [5] * 6
    assert noted.refits == [6]
    assert [row[3] for row in rows(cfg, "events.csv") if row[2] == "stage"][1].startswith("generate")
    injector, adapter = (history(cfg, f"delta/{kind}:tiny_llama") for kind in ("injector", "adapter"))
    assert all(d == 0.0 for d in injector[:6])
    assert all(d > 0.0 for d in injector[6:-1] + adapter[:-1])
    assert all(d == 0.0 for d in history(cfg, "delta/head:embedding_reconstruction")[:6]), "a rate of 0"
    own = LRSchedule("cosine", warmup_steps=2).factor(6, 1)
    assert noted.rates["adapter:tiny_llama"][:6] == pytest.approx([0.01 * own(t) for t in range(6)])
    assert noted.rates["encoder"][:6] == pytest.approx([0.001 * own(t) for t in range(6)])
    run = [0.001 * lr_factor(t, 6, 2, "cosine") for t in range(12)]
    assert noted.rates["adapter:tiny_llama"][6:] == pytest.approx(run[6:]), "the run's schedule, where it would be"


def test_a_part_that_an_objective_should_reach_and_does_not_stops_the_run(folder: Path) -> None:
    parts = prepare(config(folder, RECIPE, "seed=2"))
    parts.module.curriculum.factors = {"latents": {"embedding_reconstruction": Constant()}}
    past = torch.randn(8, 16)  # from the latents to the maps of the objective, without the adapter
    parts.module.wire.adapted = lambda z, model: z @ past  # type: ignore[method-assign]
    with pytest.raises(AuditFailure, match=r"no gradient in 4 steps: .*\(adapter:tiny_llama\)") as error:
        parts.trainer.fit(parts.module, parts.train, parts.val)
    assert "(injector:tiny_llama)" not in str(error.value), "out of reach, and not missed"


def test_what_one_stages_loss_has_reached_does_not_speak_for_the_next_one(folder: Path) -> None:
    """Answers whose gradient ends before the encoder, which reconstruction has trained until then."""
    cfg = config(folder, RECIPE, "seed=4")
    parts = prepare(
        staged(
            cfg, {"name": "a", "weights": {"embedding_reconstruction": 1}}, {"name": "b", "weights": {"answer_ce": 1}}
        )
    )
    inner = parts.module.wire.prefix
    parts.module.wire.prefix = lambda z, *more: inner(z.detach(), *more)  # type: ignore[method-assign]
    with pytest.raises(AuditFailure, match=r"no gradient in 4 steps with answer_ce: .*\(encoder\)"):
        parts.trainer.fit(parts.module, parts.train, parts.val)


def test_a_run_that_a_stage_ends_is_recorded_as_failed_with_what_it_found(folder: Path) -> None:
    cfg = config(folder, RECIPE, "seed=3")
    require = {**CRITERION, "metric": "cosine", "above": 0.99, "after": 2}
    staged(cfg, {"name": "reconstruct", "require": require}, {"name": "generate"})
    outcome = execute(cfg, "latentwire", lambda c, run: fit(c) and {})
    assert (outcome.status, outcome.user_error) == ("failed", True), "one screen and exit code 2"
    assert "stages.0.require (reconstruct)" in outcome.error
    failed = outcome.result["stage_failed"]
    assert (failed["stage"], failed["metric"], failed["steps"]) == ("reconstruct", "cosine", 2)
    assert outcome.result["counters"]["stages"]["reconstruct"]["cosine"] == failed["found"] < 0.99
    assert any(row[2] == "stage failed" for row in rows(cfg, "events.csv"))


def test_stages_and_objectives_that_do_not_fit_are_refused_together_before_anything_is_loaded(folder: Path) -> None:
    cfg = config(folder, RECIPE)
    staged(
        cfg,
        {"name": "a", "weights": {"embeding_reconstruction": 1.0}, "trains": ["encodr"], "group_lr": {"adaptor": 1.0}},
        {"name": "b", "weights": {"embedding_reconstruction": 1.0}, "trains": ["injector"], "batch_size": 0,
         "require": {**CRITERION, "metric": "cosin"},
         "lr_schedule": {"_target_": "callbacks.LRSchedule", "kind": "step"}},
        {"name": "c", "weights": {"embedding_reconstruction": 0.0}, "advance": {**CRITERION, "metric": "val/f1"}},
    )  # fmt: skip
    with open_dict(cfg):
        cfg.lms.tiny_llama.source = "nowhere"
    with pytest.raises(UserError) as error:
        prepare(cfg)
    for said in ("objectives.answer_ce: named in the weights of no stage", "weights.embeding_reconstruction",
                 "trains: encodr", "write encoder in its place", "group_lr: adaptor", "out of reach of embedding",
                 "stages.1.batch_size", "set stages.1.require.metric=cosine", "stages.1.lr_schedule.kind",
                 "stages.2.weights: nothing above 0", "stages.2.advance: the last stage"):  # fmt: skip
        assert said in str(error.value), said


def test_a_group_that_no_objective_reaches_in_any_stage_is_named_unless_it_is_held(folder: Path) -> None:
    alone = "objective=[embedding_reconstruction]"
    with pytest.raises(UserError, match="injector:tiny_llama in reach of no objective in any stage"):
        prepare(config(folder, alone))
    prepare(staged(config(folder, alone), {"name": "a", "trains": ["encoder", "adapter", "head"]}))


def test_bytes_are_aligned_with_the_reader_s_embeddings_before_anything_else(tmp_path: Path) -> None:
    """The first stage has no other loss, moves the encoder, and its gates move only where slots are told apart."""
    cfg = config(tmp_path, "curriculum=byte_alignment", "encoder=byte", "encoder.heads=2", "encoder.gate=true",
                 "encoder.max_tokens=400", "encoder.layers=1", "trainer.log_every_n_steps=1",
                 "trainer.max_epochs=1", "loader.steps_per_epoch=5", "callbacks.audit.within=2")  # fmt: skip
    with open_dict(cfg):
        cfg.stages[0].update(share=2.0, advance=None)
    before = prepare(cfg).module.wire.encoder.state_dict()
    before = {name: x.clone() for name, x in before.items()}
    parts = fit(cfg)
    after = parts.module.wire.encoder.state_dict()
    assert not [name for name, x in before.items() if torch.equal(x, after[name]) and "gate" not in name]
    assert not torch.equal(before["gate.logits"][:, :3], after["gate.logits"][:, :3])
    assert torch.equal(before["gate.logits"][:, 3:], after["gate.logits"][:, 3:])  # of slots that nobody sends
    shares = [row for row in rows(cfg) if row[2] in ("train/loss/answer_ce", "train/loss/embedding_reconstruction")]
    first = {name for step, _, name, _ in (row[:4] for row in shares) if int(step) <= 1}
    assert first == {"train/loss/embedding_reconstruction"}
    assert history(cfg, "train/loss/answer_ce")


def test_a_gate_wants_slots_that_have_queries(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no queries of their own(.|\n)*encoder\.gate=false"):
        prepare(config(tmp_path, "encoder=byte", "encoder.heads=2", "encoder.gate=true",
                       "pooling@encoder.pooling=chunk_mean"))  # fmt: skip
