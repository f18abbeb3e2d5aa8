"""SWA's own learning rate, the statistics of averaged weights, and what is evaluated before there is an average."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from asgml_runs import config, differing, fit, rows, weights, write_features
from foreign_toys import Foreign, Quadratic, foreign_batches, quadratic_batches
from toys import SGD
from toys import fit as fit_any

from callbacks.errors import UserError
from callbacks.run.averaging import EMAWeights, SWAWeights
from callbacks.stages.gate import StepGate
from callbacks.step.pipeline import StepPipeline
from suite.runs.identity import run_dir

NORM = ["model.encoder.norm=batch", "method=uniform", "trainer.max_epochs=2"]
SWA = ["averaging=swa", "callbacks.averaging.start=8", "callbacks.averaging.every=4", "callbacks.averaging.swa_lr=0.1"]
RECOMPUTED = {
    "swa": SWA,
    "ema": ["averaging=ema", "callbacks.averaging.decay=0.9", "callbacks.averaging.statistics=recomputed"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("averaging") / "data.npz")


# -- learning rates
class Rates(L.Callback):
    """The learning rate of every group in each optimiser step."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates.append([g["lr"] for g in optimizer.param_groups])


def rates(average: SWAWeights, steps: int, poison: tuple[int, ...] = ()) -> list[list[float]]:
    batches, seen = quadratic_batches(steps), Rates()
    for i in poison:
        batches[i] = batches[i] * torch.inf
    fit_any(Quadratic(SGD), batches, [StepPipeline([StepGate()], announce=False), average, seen])
    return seen.rates


def test_a_constant_rate_takes_over_after_start() -> None:
    """Steps 1 to 3 have the optimiser's 0.05; the weights after step 3 are the first of the average."""
    assert [r[0] for r in rates(SWAWeights(start=3, every=2, swa_lr=0.01), 6)] == [0.05] * 3 + [0.01] * 3


def test_a_cyclic_rate_is_the_papers_and_ends_low_where_weights_are_taken() -> None:
    """alpha_1 = 0.04, alpha_2 = 0.01, c = 3, section 3.2: t(i) = (mod(i - 1, c) + 1) / c."""
    found = [r[0] for r in rates(SWAWeights(start=2, every=3, swa_lr=0.01, cycle=4.0), 9)]
    literal = [(1 - p) * 0.04 + p * 0.01 for i in range(1, 8) for p in [((i - 1) % 3 + 1) / 3]]
    assert found == pytest.approx([0.05, 0.05, *literal])
    average = SWAWeights(start=2, every=3, swa_lr=0.01, cycle=4.0)
    assert [t for t in range(12) if average.due(t)] == [2, 5, 8, 11]
    assert average.rate(4, "a") == pytest.approx(0.01)  # the step that makes t = 5


def test_the_rate_counts_real_steps_and_may_differ_by_group() -> None:
    found = rates(SWAWeights(start=2, every=2, swa_lr={"b": 0.01}), 5, poison=(1,))
    assert found == [[0.05, 0.05]] * 3 + [[0.05, 0.01]] * 2


def test_wrong_settings_are_refused_by_their_keys() -> None:
    for make, found in (
        (lambda: SWAWeights(start=1, every=0), "every"),
        (lambda: SWAWeights(start=-1), "start"),
        (lambda: SWAWeights(start=1, swa_lr=-0.1), "swa_lr"),
        (lambda: SWAWeights(start=1, swa_lr={"a": -0.1}), "swa_lr.a"),
        (lambda: SWAWeights(start=1, cycle=2.0), "cycle"),
        (lambda: SWAWeights(start=1, swa_lr=0.1, cycle=0.5), "cycle"),
        (lambda: EMAWeights(decay=1.0), "decay"),
        (lambda: EMAWeights(statistics="copied"), "statistics"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UserError, match=found):
            make()
    with pytest.raises(UserError, match="groups are a, b"):
        rates(SWAWeights(start=1, swa_lr={"audio": 0.1}), 1)
    with pytest.raises(UserError, match="forward_training_data"):
        fit_any(Foreign(automatic=False), foreign_batches(1), [SWAWeights(start=1)])


# -- statistics
def literal_statistics(net: torch.nn.Module, batches: list[Any]) -> dict[str, torch.Tensor]:
    """Mean over the batches of each batch's mean and unbiased variance at every BatchNorm, by hooks and by hand."""
    seen: dict[str, list[torch.Tensor]] = {}
    layers = {n: m for n, m in net.named_modules() if isinstance(m, torch.nn.BatchNorm1d)}
    assert layers
    for name, layer in layers.items():

        def keep(m: Any, inputs: Any, name: str = name) -> None:
            seen.setdefault(f"{name}.running_mean", []).append(inputs[0].mean(0))
            seen.setdefault(f"{name}.running_var", []).append(inputs[0].var(0))

        layer.register_forward_pre_hook(keep)
        layer.train()
    with torch.no_grad():
        for batch in batches:
            for m, x in batch["x"].items():
                net.encode(m, x)
    return {k: torch.stack(v).mean(0) for k, v in seen.items()}


@pytest.mark.parametrize("kind", RECOMPUTED)
def test_the_average_has_the_statistics_of_a_literal_recomputation(data: Path, tmp_path: Path, kind: str) -> None:
    """After training, and in the `best.ckpt` that its validation chose; the validation reads the same numbers again."""
    cfg = config(data, tmp_path, *RECOMPUTED[kind], *NORM)
    parts = fit(cfg)
    best = torch.load(run_dir(cfg) / "checkpoints" / "best.ckpt", weights_only=True)
    batches = list(parts.data.train_dataloader())
    for state in (weights(parts), best["state_dict"]):
        parts.module.load_state_dict(state)
        found = literal_statistics(copy.deepcopy(parts.module.net).eval(), batches)
        for name, value in found.items():
            torch.testing.assert_close(state[f"net.{name}"], value, rtol=1e-5, atol=1e-6, msg=name)
    parts.trainer.validate(parts.module, datamodule=parts.data, verbose=False)
    epoch = best["callbacks"]["StepCheckpoint"]["best_epoch"]
    recorded = [float(r[3]) for r in rows(cfg, "history.csv")[1:] if (r[1], r[2]) == (str(epoch), "val/loss")]
    assert [parts.module.metrics["val"]["loss"]] == recorded


def test_averaged_statistics_move_with_the_weights(data: Path, tmp_path: Path) -> None:
    """Decay 0.9: the last step's statistics make up a tenth, as the last step's weights do."""
    trace: list[dict[str, torch.Tensor]] = []

    class Trace(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            trace.append({k: v.clone() for k, v in pl_module.state_dict().items()})

    parts = fit(config(data, tmp_path, "averaging=ema", "callbacks.averaging.decay=0.9", *NORM), [Trace()])
    for k, v in weights(parts).items():
        if not v.is_floating_point():
            assert torch.equal(v, trace[-1][k])
            continue
        average = trace[0][k]
        for state in trace[1:]:
            average = 0.9 * average + 0.1 * state[k]
        torch.testing.assert_close(v, average, rtol=1e-4, atol=1e-6, msg=k)


def test_recomputing_disturbs_nothing(data: Path, tmp_path: Path) -> None:
    """The weights that train on are those of the same run without an average, whatever was recomputed in between."""

    class Final(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.state = {k: v.clone() for k, v in pl_module.state_dict().items()}

    hard = [
        *NORM,
        "+model.encoders.visual={_target_:asgml.model.MLP,_partial_:true,dim:8,hidden:16,dropout:0.3,norm:batch}",
    ]
    plain, averaged = Final(), Final()
    fit(config(data, tmp_path, *hard), [plain])
    fit(config(data, tmp_path, *hard, *RECOMPUTED["ema"]), [averaged])
    assert not differing(plain.state, averaged.state)


# -- before there is an average
def test_until_the_first_average_the_weights_themselves_are_evaluated_and_saved(data: Path, tmp_path: Path) -> None:
    """Not the initial ones, which validation would find at chance and `best.ckpt` would keep."""
    same = [*NORM, "trainer.max_epochs=1"]
    plain = fit(config(data, tmp_path, *same))
    cfg = config(
        data, tmp_path, *same, "averaging=swa", "callbacks.averaging.start=100", "callbacks.averaging.swa_lr=null"
    )
    with pytest.warns(UserWarning, match="before the first average"):
        averaged = fit(cfg)
    assert averaged.module.metrics["val"] == plain.module.metrics["val"]
    assert not differing(weights(plain), weights(averaged))
    saved = torch.load(run_dir(cfg) / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert not differing(weights(plain), saved)


class Unreadable(L.Callback):
    """Puts the average's count where no number can be read from."""

    def __init__(self, average: EMAWeights):
        self.average = average

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        model: Any = self.average._average_model
        model.n_averaged = model.n_averaged.to("meta")


@pytest.mark.parametrize(
    "average",
    [*(EMAWeights(decay=d) for d in (0.3, 0.7, 0.9, 0.999)), SWAWeights(start=1, every=1)],
    ids=lambda a: f"{type(a).__name__} {getattr(a, 'decay', '')}",
)
def test_what_is_frozen_stays_in_the_average_to_the_last_bit(average: Any) -> None:
    frozen = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    mean = frozen.clone()
    for average._updates in range(1, 20):
        average._move([mean], [frozen])
    assert torch.equal(mean, frozen)


def test_an_average_waits_for_nothing_on_the_device() -> None:
    """torch's own update asks the device twice per step how many there have been."""
    average = EMAWeights(decay=0.9)
    callbacks = [StepPipeline([StepGate()], announce=False), average, Unreadable(average)]
    fit_any(Foreign(automatic=False), foreign_batches(3), callbacks)
    assert average._updates == 3
