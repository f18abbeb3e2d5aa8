"""Gradient norms, movement, Fisher trace and the cosine at the feature, against plain arithmetic."""

from __future__ import annotations

import pytest
import torch
from foreign_toys import Foreign, Quadratic, foreign_batches, quadratic_batches
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger
from toys import MOMENTUM, Capture, asgml, differences, fit, toy_batches, toy_spec, train

from asgml.methods.uniform import Uniform
from asgml.model.net import FUSION
from callbacks.run.debug import DebugFailure, OverfitCheck
from callbacks.stages.diagnostics import GradientNorms
from callbacks.stages.gate import StepGate
from callbacks.stages.lr import LRStep
from callbacks.stages.staleness import StalenessBuffer
from callbacks.step.phases import Phase
from callbacks.step.pipeline import StepPipeline
from callbacks.step.stage import Stage


class Keep(DummyLogger):
    """Keeps every set of logged metrics with its step."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics, step=None) -> None:
        self.rows.append((step, dict(metrics)))

    def series(self, name: str) -> dict[int, float]:
        return {step: row[name] for step, row in self.rows if name in row}


class Gradients(GradientNorms):
    """Keeps the gradients that it measures."""

    def __init__(self, every: int):
        super().__init__(every)
        self.capture = Capture()

    def on_gradients(self, ctx) -> None:
        self.capture.on_gradients(ctx)
        super().on_gradients(ctx)


@pytest.mark.parametrize("gate", [True, False], ids=["gate", "alone"])
def test_the_logged_numbers_are_norms_of_fresh_gradients_and_of_what_moved(gate):
    logger, stage = Keep(), Gradients(every=3)
    buffer = StalenessBuffer({"a": 2}, compensation="none")
    stages = [stage, buffer, StepGate()] if gate else [stage, buffer]
    pipeline = StepPipeline(stages, log_every=1, announce=False)
    trace = fit(Quadratic(MOMENTUM), quadratic_batches(9), [pipeline], logger=logger)
    steps = [0, 2, 5, 8]  # the first, then every third
    states = [trace.start, *trace.states]
    assert list(logger.series("grad_norm/a")) == [t + 1 for t in steps]
    fisher = {"a": None, "b": None}
    for t, row in enumerate(stage.capture.gradients):
        norms = {g: float(row[g][0].norm()) for g in "ab"}
        for g in "ab":
            if gate or t in steps:  # without a gate only logging steps read the norms
                old = fisher[g]
                fisher[g] = norms[g] ** 2 if old is None else 0.9 * old + 0.1 * norms[g] ** 2
        if t not in steps:
            continue
        total = sum(n**2 for n in norms.values()) ** 0.5
        for g in "ab":
            delta = float((states[t + 1][g] - states[t][g]).norm())
            assert logger.series(f"grad_norm/{g}")[t + 1] == pytest.approx(norms[g], rel=1e-6)
            assert logger.series(f"grad_share/{g}")[t + 1] == pytest.approx(norms[g] / total, rel=1e-6)
            assert logger.series(f"delta/{g}")[t + 1] == pytest.approx(delta, rel=1e-5, abs=1e-12)
            ratio = delta / float(states[t][g].norm())
            assert logger.series(f"update_ratio/{g}")[t + 1] == pytest.approx(ratio, rel=1e-5, abs=1e-12)
            assert logger.series(f"lr/{g}")[t + 1] == 0.05
            assert logger.series(f"fisher/{g}")[t + 1] == pytest.approx(fisher[g], rel=1e-5)
    assert logger.series("delta/a")[1] == 0.0 < logger.series("delta/b")[1]  # held back in its warm-up


def test_the_first_step_is_printed(capsys):
    fit(Quadratic(), quadratic_batches(2), [StepPipeline([GradientNorms(), StepGate()])])
    lines = capsys.readouterr().out.splitlines()
    order = "step: forward → losses → backward → unscaled → diagnostics → gate → optimiser → commit"
    assert order in lines
    first = [line for line in lines if line.startswith("first step: ")]
    assert len(first) == 1
    assert "a ‖g‖" in first[0]
    assert "b ‖g‖" in first[0]


def test_the_first_step_shows_the_learning_rate_that_each_group_had(capsys):
    """That of the step itself: with its own base rate, and with a factor for this step."""

    class Halved(Stage):
        name, phase = "halved", Phase.MASK

        def on_gradients(self, ctx) -> None:
            ctx.rescale("b", 0.5, "lr")

    class Rates(Foreign):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            optimizer.param_groups[0]["lr"] = 0.003
            return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ConstantLR(optimizer, 0.1)}

    stages = [GradientNorms(every=5), Halved(), StepGate(), LRStep()]
    fit(Rates(automatic=False), foreign_batches(1), [StepPipeline(stages, announce=False)])
    (first,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("first step: ")]
    rates = {
        part.split()[0]: float(part.rpartition(" lr ")[2]) for part in first.removeprefix("first step: ").split(", ")
    }
    assert rates == {"a": 0.0003, "b": 0.0025, "head": 0.005}


def test_the_fisher_trace_begins_with_the_first_square_and_ignores_steps_without_gradient():
    stage = GradientNorms(announce=False)
    spec = toy_spec()
    capture = []

    class Watch(StepGate):
        def on_commit(self, ctx):
            super().on_commit(ctx)
            capture.append(ctx.host["fresh/audio"])

    train(asgml(), toy_batches(4, spec, missing={1: ["audio"]}), extra=[stage], gate=Watch())
    first, gone, *rest = capture
    expected = first**2
    assert gone == 0.0
    for norm in rest:
        expected += 0.1 * (norm**2 - expected)
    assert stage.fisher["audio"] == pytest.approx(expected)


def test_diagnostics_change_no_bit():
    batches = foreign_batches(7, poison=[3])
    plain = fit(Foreign(automatic=False), batches, [StepPipeline([StepGate()], announce=False)])
    watched = fit(
        Foreign(automatic=False),
        batches,
        [StepPipeline([GradientNorms(every=1, announce=False), StepGate()], announce=False)],
    )
    assert not differences(plain.states, watched.states)


def test_the_cosine_is_that_of_the_two_paths_at_the_feature():
    logger, expected = Keep(), []

    def install(module, pipeline) -> None:
        pipeline.log_every = 1
        backward = module.manual_backward

        def spy(total, *args, **kwargs):
            step, row = module.step, {}
            for m, f in step.features.items():
                fused = torch.autograd.grad(step.losses[FUSION], f, retain_graph=True)[0]
                single = torch.autograd.grad(step.losses[m], f, retain_graph=True)[0]
                row[m] = float(torch.nn.functional.cosine_similarity(fused.flatten(), single.flatten(), dim=0))
            expected.append(row)
            backward(total, *args, **kwargs)

        module.manual_backward = spy

    class Log(Capture):
        def after_commit(self, ctx) -> None:
            logger.rows.append((ctx.t - 1, dict(ctx.metrics)))

    train(asgml(), before=install, extra=[Log()], module_options={"cosine_every": 3})
    for m in ("audio", "visual"):
        found = logger.series(f"cosine/{m}")
        assert list(found) == [0, 2, 5]
        for t, value in found.items():
            assert value == pytest.approx(expected[t][m], abs=1e-6)
    assert any(row["audio"] < 0.999 for row in expected)


def test_measuring_the_cosine_changes_no_bit():
    runs = [train(asgml("frequency", k=2), module_options={"cosine_every": n}) for n in (0, 1)]
    assert not differences(runs[0].trace.states, runs[1].trace.states)


def test_loss_shares_are_of_what_is_trained_on_and_add_up():
    rows = []

    class Log(Capture):
        def after_commit(self, ctx) -> None:
            rows.append(dict(ctx.metrics))

    train(asgml(gamma=4.0), methods={"uniform": Uniform(4.0)}, extra=[Log()])
    for row in rows:
        losses = {m: row[f"train/loss/{m}"] for m in ("fusion", "audio", "visual")}
        total = losses["fusion"] + 4 * losses["audio"] + 4 * losses["visual"]
        assert row["train/loss"] == pytest.approx(total)
        assert row["share/audio"] == pytest.approx(4 * losses["audio"] / total)
        assert row["share/fusion"] + row["share/audio"] + row["share/visual"] == pytest.approx(1)
    first = rows[0]
    assert first["share/audio"] + first["share/visual"] == pytest.approx(8 / 9, abs=0.03)  # at initialisation


def test_metrics_reach_any_lightning_logger(tmp_path):
    logger = CSVLogger(tmp_path)
    pipeline = StepPipeline([GradientNorms(every=2, announce=False), StepGate()], log_every=1, announce=False)
    fit(Quadratic(), quadratic_batches(3), [pipeline], logger=logger)
    logger.save()
    header = next(tmp_path.glob("**/metrics.csv")).read_text().splitlines()[0].split(",")
    assert {"grad_norm/a", "delta/b", "gate/skipped", "time/step_ms", "memory/peak_mb"} <= set(header)


# -- the debugging check that stands on it
class Dead(Foreign):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        optimizer.param_groups[1]["lr"] = 0.0
        return optimizer

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        self.log("train/loss", torch.tensor(0.01))


def test_the_overfit_check_names_the_dead_group(capsys):
    stages = StepPipeline([GradientNorms(every=1, announce=False), StepGate()], announce=False)
    with pytest.raises(DebugFailure, match=r"parameter groups b\n"):
        fit(Dead(automatic=False), foreign_batches(3), [stages, OverfitCheck()])
    fit(Dead(automatic=False), foreign_batches(3), [stages, OverfitCheck(idle=["b"])])
    assert "largest ‖Δparam‖ per group" in capsys.readouterr().out
    with pytest.raises(DebugFailure, match=r"train/loss\n  found:    0\.01 after"):
        fit(Dead(automatic=False), foreign_batches(3), [stages, OverfitCheck(loss_below=0.001, idle=["b"])])
