"""Probes: what they read, what they are scored on, and that they change nothing else (specification A4)."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from foreign_toys import Foreign, foreign_batches
from toys import CLASSES, differences, fit, loader, quiet_trainer, toy_batches, toy_spec, train

from callbacks.errors import UserError
from callbacks.stages.holdout import held_out
from callbacks.stages.probe import CorrectedEMA, ProbeEMA
from callbacks.step.pipeline import StepPipeline

HOLDOUTS = ["validation", "half", "buffer"]


class Seen:
    """Keeps what probes are trained on: per step, features, labels and weights by modality."""

    def __init__(self) -> None:
        self.trained: list[dict[str, Any]] = []

    @contextmanager
    def of(self, probe: ProbeEMA) -> Iterator[None]:
        train = probe._heads.train

        def watched(batch: Any) -> None:
            self.trained.append({m: tuple(x.clone() for x in rows) for m, rows in batch.items()})
            train(batch)

        probe._heads.train = watched  # type: ignore[method-assign]
        yield


def fit_with(probe: ProbeEMA | None, module: Foreign, batches: list[Any], epochs: int = 1, val: Any = None) -> dict:
    trainer = quiet_trainer([StepPipeline([probe] if probe else [], announce=False)], epochs)
    trainer.fit(module, loader(batches), loader(val or foreign_batches(2, seed=9)))
    return {k: v.clone() for k, v in module.state_dict().items()}


class Evaluated(Foreign):
    """Has a validation loop, so that there is validation data, and dropout, which draws from the global generator."""

    def __init__(self, automatic: bool = False):
        super().__init__(automatic)
        self.a.append(torch.nn.Dropout(0.4))

    def validation_step(self, batch, batch_idx) -> None: ...


@pytest.mark.parametrize("hidden", [0, 4], ids=["linear", "mlp"])
@pytest.mark.parametrize("holdout", HOLDOUTS)
def test_nothing_of_a_probe_reaches_the_module(holdout, hidden):
    """Weights, BatchNorm statistics, training mode, gradients and the global generator are as without it."""
    batches = foreign_batches(6)
    torch.manual_seed(3)
    plain = fit_with(None, Evaluated(), batches)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    module = Evaluated()
    probe = ProbeEMA(CLASSES, every=1, holdout=holdout, hidden=hidden, lr=0.1)
    probed = fit_with(probe, module, batches)
    assert not differences(plain, probed)
    assert torch.equal(state, torch.get_rng_state())
    assert module.training
    assert probe.history


@pytest.mark.parametrize("holdout", HOLDOUTS)
def test_a_probe_step_adds_nothing_to_an_encoders_gradient(holdout):
    """The gradients of the optimiser step are still there at the end of the batch, to the last bit."""
    kept = []

    class Look(ProbeEMA):
        def after_commit(self, ctx) -> None:
            before = [p.grad.clone() for p in ctx.module.parameters()]
            super().after_commit(ctx)
            kept.append(differences(before, [p.grad for p in ctx.module.parameters()]))

    fit_with(Look(CLASSES, every=1, holdout=holdout), Evaluated(), foreign_batches(4))
    assert kept == [[]] * 4


class Memorise(Foreign):
    """Gives the probe noise of many dimensions and random labels: there is nothing to learn."""

    def probe_input(self):
        return {"a": (self.noise, self.labels)}

    def probe_encode(self, batch):
        return {"a": (noise_of(batch), batch[1])}

    def probe_index(self):
        return {"a": self.batch_index}

    def loss(self, batch):
        self.noise = noise_of(batch)
        self.batch_index = torch.arange(80) + 80 * int(batch[0][0, 0] > 0)  # two batches, told apart by a sign
        return super().loss(batch)

    def validation_step(self, batch, batch_idx) -> None: ...


def noise_of(batch) -> torch.Tensor:
    """Return noise (n, 40) that belongs to the batch's rows."""
    seed = int(batch[0].double().abs().sum() * 1e6) % 2**31
    return torch.randn(batch[1].shape[0], 40, generator=torch.Generator().manual_seed(seed))


def coin_flips(count: int, size: int, seed: int) -> list[Any]:
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 4, generator=g, dtype=torch.float64), torch.randint(2, (size,), generator=g))
        for _ in range(count)
    ]


@pytest.mark.parametrize("holdout", HOLDOUTS)
def test_a_probe_that_memorises_random_labels_scores_chance(holdout):
    """Every batch many times over: what it is trained on is known by heart, what it is scored on is a coin flip."""
    probe, seen = ProbeEMA(2, every=1, holdout=holdout, hidden=64, lr=0.02, budget=None, ema=0.05), Seen()
    with seen.of(probe):
        fit_with(probe, Memorise(automatic=False), coin_flips(2, 80, 1), epochs=40, val=coin_flips(1, 300, 2))
    for rows in seen.trained[-2:]:
        f, y, w = rows["a"]
        assert bool(((probe._heads.logits("a", f).argmax(1) == y) | (w == 0)).all())
    scored = [row[2] for row in probe.history[20:]]
    assert 0.3 < sum(scored) / len(scored) < 0.7
    assert 0.3 < probe.utilisation["a"] < 0.7


@pytest.mark.parametrize("holdout", HOLDOUTS)
def test_a_probe_finds_what_is_there_and_names_the_strong_and_the_weak(holdout):
    class Signal(Foreign):
        def features_of(self, batch):
            y = batch[1]
            clear = torch.nn.functional.one_hot(y, CLASSES).float() * 3
            return {"weak": (torch.zeros(len(y), 2), y), "strong": (clear, y)}

        def loss(self, batch):
            self.batch = batch
            return super().loss(batch)

        def probe_input(self):
            return self.features_of(self.batch)

        def probe_encode(self, batch):
            return self.features_of(batch)

        def validation_step(self, batch, batch_idx) -> None: ...

    probe = ProbeEMA(CLASSES, every=1, holdout=holdout, lr=0.1, budget=None)
    assert (probe.dominant, probe.weakest, probe.gap) == (None, None, 0.0)
    fit_with(probe, Signal(automatic=False), foreign_batches(24, size=12))
    assert probe.utilisation["strong"] > 0.85
    assert probe.utilisation["weak"] < 0.6
    assert (probe.dominant, probe.weakest) == ("strong", "weak")
    assert probe.gap == pytest.approx(probe.utilisation["strong"] - probe.utilisation["weak"])


def test_half_scores_the_rows_it_does_not_train_on():
    probe, seen = ProbeEMA(CLASSES, every=1, holdout="half"), Seen()
    module = Foreign(automatic=False)
    with seen.of(probe):
        fit_with(probe, module, foreign_batches(1, size=7))
    whole = module.features["a"].detach().float()
    features, _, weight = seen.trained[0]["a"]
    assert torch.equal(features, whole)
    assert not features.requires_grad
    assert features.dtype == torch.float32
    assert weight.tolist() == [1, 0, 1, 0, 1, 0, 1]
    assert probe.holdout_rows == 3


class Numbered(Foreign):
    """Numbers its samples: the first column of a row of a batch."""

    def probe_index(self):
        index = self.numbers
        return {"a": index, "b": index}

    def loss(self, batch):
        self.numbers = batch[0][:, 0].long()
        return super().loss(batch)


def numbered(epochs: int, batches: int, size: int) -> list[Any]:
    """Return batches of every sample once an epoch, in another order each time; column 0 is the sample's number."""
    out = []
    for epoch in range(epochs):
        order = torch.randperm(batches * size, generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(size):
            x = torch.randn(size, 4, generator=torch.Generator().manual_seed(int(rows[0])), dtype=torch.float64)
            x[:, 0] = rows.double()
            out.append((x, rows % CLASSES))
    return out


def test_over_all_epochs_no_probe_is_trained_on_a_sample_that_is_scored():
    """Held out is a fixed share of the samples, in whatever batch they come; the buffer holds the newest of them."""
    probe, seen = ProbeEMA(CLASSES, every=1, holdout_size=20, holdout_share=0.3), Seen()
    batches = numbered(4, 8, 12)
    with seen.of(probe):
        fit_with(probe, Numbered(automatic=False), batches)
    trained, scored = set(), set()
    for (x, _), rows in zip(batches, seen.trained, strict=True):
        weight = rows["a"][2]
        assert set(weight.tolist()) <= {0.0, 1.0}
        trained |= set(x[weight == 1, 0].long().tolist())
        scored |= set(x[weight == 0, 0].long().tolist())
    assert not trained & scored
    assert trained | scored == set(range(96))
    assert 0.15 < len(scored) / 96 < 0.45
    # the last score: the held-out rows of the last ceil(20 / (0.3 * 12)) batches
    newest = torch.cat([x[:, 0].long() for x, _ in batches[-6:]])
    assert probe.holdout_rows == int(held_out(newest, 0.3).sum())
    assert probe._buffer.rows("a")[0].shape[0] == 6 * 12


@pytest.mark.parametrize("share", [0.25, 0.3])
def test_without_numbers_rows_of_the_stream_are_held_out_evenly(share):
    probe, seen = ProbeEMA(CLASSES, every=1, holdout_share=share), Seen()
    with seen.of(probe):
        fit_with(probe, Foreign(automatic=False), foreign_batches(10, size=7))
    stream = torch.cat([rows["a"][2] for rows in seen.trained])
    held = [math.floor((i + 1) * share) > math.floor(i * share) for i in range(70)]
    assert (stream == 0).tolist() == held


def test_a_buffer_is_no_longer_than_an_epoch_and_has_the_rows_that_were_asked_for():
    def batches_of(size: int, count: int, **options: Any) -> int:
        probe = ProbeEMA(CLASSES, every=1, **options)
        fit_with(probe, Foreign(automatic=False), foreign_batches(count, size=size), epochs=2)
        return len(probe._buffer)

    assert batches_of(8, 6) == 6  # 128 batches would have 256 held-out rows
    assert batches_of(8, 6, holdout_size=7) == 4
    assert batches_of(8, 6, holdout_size=7, holdout_share=0.5) == 2


def test_the_default_encodes_nothing_again():
    class Counts(Evaluated):
        encoded = 0

        def probe_encode(self, batch):
            Counts.encoded += 1
            return super().probe_encode(batch)

    fit_with(ProbeEMA(CLASSES, every=1), Counts(), foreign_batches(6))
    assert Counts.encoded == 0


@pytest.mark.parametrize(
    ("budget", "steps"), [(None, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]), (0.25, [2, 8, 16]), (0.03, [2])]
)
def test_a_validation_batch_is_encoded_within_a_budget_of_rows(budget, steps):
    """24 rows, a third of a step each, of batches of 4: at 0.25 every 8 steps, whatever the clock says."""
    probe = ProbeEMA(CLASSES, every=2, holdout="validation", budget=budget)
    fit_with(probe, Evaluated(), foreign_batches(20, size=4), val=foreign_batches(1, size=24, seed=9))
    assert [row[0] for row in probe.history if row[1] == "a"] == steps
    assert probe.holdout_rows == 24
    if budget and len(steps) > 2:
        assert 24 / 3 / (4 * (steps[2] - steps[1])) <= budget


@pytest.mark.parametrize(
    ("key", "value"),
    [("every", 0), ("holdout_size", 0), ("holdout_share", 1.0), ("holdout_share", 0.0), ("budget", 0.0)],
)
def test_a_number_out_of_its_range_is_refused(key, value):
    with pytest.raises(UserError, match=rf"callbacks\.probe\.{key}"):
        ProbeEMA(CLASSES, **{key: value})


def test_the_moving_average_is_bias_corrected():
    """It starts at the first value; an average that starts at 0 reports a gap that is not there for dozens of steps."""
    ema, values = CorrectedEMA(0.1), [0.7, 0.7, 0.2, 0.9, 0.4]
    assert ema.value == 0.0
    for n in range(1, len(values) + 1):
        weights = [0.9 ** (n - 1 - i) for i in range(n)]
        expected = sum(w * v for w, v in zip(weights, values[:n], strict=True)) / sum(weights)
        assert ema.update(values[n - 1]) == pytest.approx(expected)
    assert CorrectedEMA(0.01).update(0.42) == pytest.approx(0.42)


def test_utilisation_is_the_corrected_average_of_the_history():
    probe = ProbeEMA(CLASSES, every=2, holdout="half", ema=0.2, lr=0.05)
    fit_with(probe, Foreign(automatic=False), foreign_batches(11))
    assert [row[0] for row in probe.history if row[1] == "a"] == [2, 4, 6, 8, 10]
    average = CorrectedEMA(0.2)
    for _, m, accuracy in probe.history:
        if m == "a":
            average.update(accuracy)
    assert probe.utilisation["a"] == pytest.approx(average.value)


@pytest.mark.parametrize("hidden", [0, 4])
@pytest.mark.parametrize("holdout", ["half", "buffer"])
def test_a_saved_probe_goes_on_as_if_nothing_had_happened(holdout, hidden):
    """Weights, optimiser, averages, history and buffer, through a file that holds plain data only."""
    batches = foreign_batches(10)

    def make() -> ProbeEMA:
        return ProbeEMA(CLASSES, every=1, holdout=holdout, hidden=hidden, holdout_size=4, lr=0.05)

    whole = make()
    fit_with(whole, Frozen(), batches)
    first, second = make(), make()
    fit_with(first, Frozen(), batches[:6])
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    second.load_state(torch.load(file, weights_only=True))
    assert second.utilisation == first.utilisation  # before its first step already
    pipeline = StepPipeline([second], announce=False)
    pipeline.t = 6
    quiet_trainer([pipeline]).fit(Frozen(), loader(batches[6:]))
    assert not differences(whole.state(), second.state())


class Frozen(Foreign):
    """Stays as it is, so that a second fit sees the features of the first."""

    def __init__(self) -> None:
        super().__init__(automatic=False, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.0))
        for m in (self.a, self.b):
            m[1] = torch.nn.Identity()


def test_rows_without_the_modality_neither_train_nor_count():
    spec, probe = toy_spec(), ProbeEMA(CLASSES, every=1, holdout="half")
    run = train(None, toy_batches(5, spec, missing={0: ["visual"], 3: ["visual"]}, partly={1: ["visual"]}), probe=probe)
    steps = {m: [row[0] for row in probe.history if row[1] == m] for m in ("audio", "visual")}
    assert steps == {"audio": [1, 2, 3, 4, 5], "visual": [2, 3, 5]}
    assert run.pipeline.t == 5


def test_what_a_probe_needs_is_said():
    class Bare(torch.nn.Module): ...

    module = Foreign(automatic=False)
    with pytest.raises(UserError, match="no validation data"):
        fit(module, foreign_batches(1), [ProbeEMA(CLASSES, holdout="validation")])

    class Deaf(Foreign):
        probe_encode = None

        def __getattribute__(self, name):
            if name == "probe_encode":
                raise AttributeError(name)
            return super().__getattribute__(name)

    with pytest.raises(UserError, match=r"no probe_encode\(\)"):
        fit(Deaf(automatic=False), foreign_batches(1), [ProbeEMA(CLASSES)])
