"""OGM-GE against a slow transcription of its formulas (Peng et al., CVPR 2022)."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
import torch
from toys import SGD, Capture, ToyConv, ToyEncoder, asgml, differences, same, toy_batches, toy_spec, train

from asgml.methods.base import Step
from asgml.methods.joint import Joint
from asgml.methods.ogm_ge import OGMGE, coefficient, modulated, spread
from asgml.methods.shared.confidence import discrepancy, scores
from asgml.methods.shared.draws import NoiseTable
from asgml.model.fusion.sum import Sum
from callbacks.errors import UserError


def transcription(logits: dict[str, list[list[float]]], rows: dict[str, list[int]], y: list[int], alpha: float):
    """p_m, rho_m and k_m with Python floats, sample by sample, as the paper prints them."""
    p = {}
    for m, z in logits.items():
        total = 0.0
        for i in rows[m]:
            e = [math.exp(v) for v in z[i]]
            total += e[y[i]] / sum(e)
        p[m] = total / len(rows[m])  # with all rows present: the published sum over the batch size
    k = {}
    for m in p:
        others = [p[m] / p[o] for o in p if o != m]
        rho = sum(others) / len(others)
        k[m] = 1 - math.tanh(alpha * rho) if rho > 1 else 1.0
    return k


def slices(module) -> dict[str, torch.Tensor]:
    """z_m = W_m f_m + b / M, column block by column block."""
    layer, step, start, out = module.net.fusion.linear, module.step, 0, {}
    for m, f in step.features.items():
        w = layer.weight[:, start : start + f.shape[1]]
        start += f.shape[1]
        out[m] = (f @ w.T + layer.bias / len(step.features)).detach().clone()
    return out


def seen(module):
    step = module.step
    present = {
        m: list(range(len(step.y))) if p is None else torch.where(p)[0].tolist() for m, p in step.present.items()
    }
    return {m: z.tolist() for m, z in slices(module).items()}, present, step.y.tolist()


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("alpha", [0.1, 0.8])
def test_the_convolution_gradients_are_scaled_by_the_transcribed_coefficient(modalities, alpha):
    spec, capture, steps = toy_spec(modalities, (1, 4, 4)), Capture(seen), 8
    batches = toy_batches(
        steps, spec, partly={2: ["visual"], 5: ["audio", "visual"]}, missing={6: ["visual"]} if modalities == 3 else {}
    )
    methods = {"ogm_ge": OGMGE(alpha=alpha, noise=False)}
    run = train(asgml(), batches, spec=spec, encoder=ToyConv, methods=methods, optimizer=SGD, extra=[capture])
    names = {
        m: [n for n, _ in run.module.named_parameters() if n.startswith(f"net.encoders.{m}.")] for m in spec.modalities
    }
    slowed = dict.fromkeys(spec.modalities, 0)
    for t in range(steps):
        before = run.trace.start if t == 0 else run.trace.states[t - 1]
        logits, present, y = capture.seen[t]
        here = [m for m in spec.modalities if present[m]]
        k = transcription({m: logits[m] for m in here}, present, y, alpha)
        for m in here:
            for name, g in zip(names[m], capture.gradients[t][m], strict=True):
                step = run.trace.states[t][name] - before[name]
                factor = k[m] if g.dim() == 4 else 1.0  # only the kernels
                torch.testing.assert_close(step, -0.05 * factor * g, rtol=1e-8, atol=1e-14)
            slowed[m] += k[m] < 1
    assert sum(slowed.values()) >= 4


def test_the_formulas_on_numbers():
    p = {"a": torch.tensor(6.0), "b": torch.tensor(2.0), "c": torch.tensor(3.0)}
    rho = discrepancy(p)
    assert {m: float(r) for m, r in rho.items()} == pytest.approx(
        {"a": (3 + 2) / 2, "b": (1 / 3 + 2 / 3) / 2, "c": (0.5 + 1.5) / 2}
    )
    assert float(coefficient(torch.tensor(2.5), 0.8)) == pytest.approx(1 - math.tanh(2.0))
    assert float(coefficient(torch.tensor(1.0), 0.8)) == 1.0
    assert float(coefficient(torch.tensor(0.4), 0.8)) == 1.0


def test_a_modality_that_nobody_has_does_not_move_and_one_alone_is_not_modulated():
    spec, capture = toy_spec(3, (1, 4, 4)), Capture()
    batches = toy_batches(2, spec, missing={0: ["text"], 1: ["text", "visual"]})
    methods = {"ogm_ge": OGMGE(alpha=0.8)}
    run = train(asgml(), batches, spec=spec, encoder=ToyConv, methods=methods, optimizer=SGD, extra=[capture])
    assert same(run.trace.start, run.final, "net.encoders.text")
    name = "net.encoders.audio.layers.0.weight"
    step = run.trace.states[1][name] - run.trace.states[0][name]
    torch.testing.assert_close(step, -0.05 * capture.gradients[1]["audio"][0], rtol=1e-8, atol=1e-14)


def big_step(std: float) -> tuple[Step, dict[str, list[torch.nn.Parameter]]]:
    """A step with equal scores (no factor), and one big kernel per encoder."""
    y = torch.zeros(4, dtype=torch.long)
    logits = torch.zeros(4, 3)
    groups = {}
    for m in ("audio", "visual"):
        p = torch.nn.Parameter(torch.zeros(40, 40, 5, 5))
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(len(m))) * std + 0.7
        groups[m] = [p, torch.nn.Parameter(torch.zeros(3))]
        groups[m][1].grad = torch.ones(3)
    each = {m: logits for m in groups}
    losses = {m: torch.zeros(()) for m in groups}
    step = Step(
        y, dict.fromkeys(groups), each, logits, each, lambda m: logits, losses, lambda v, m: v.mean(), 0, 0, True
    )
    return step, groups


@pytest.mark.parametrize("std", [0.01, 3.0])
def test_the_noise_is_gaussian_with_the_standard_deviation_of_the_gradient(std):
    step, groups = big_step(std)
    before = {m: [p.grad.clone() for p in params] for m, params in groups.items()}
    method = OGMGE()
    method.prepare("ogm_ge", list(groups), 3, seed=5)
    assert method.on_gradients(step, groups) == set(groups)
    noises = []
    for m, (kernel, bias) in groups.items():
        noise = kernel.grad - before[m][0]
        noises.append(noise.flatten())
        assert float(noise.std()) == pytest.approx(float(before[m][0].std()), rel=0.02)
        assert abs(float(noise.mean())) < 5 * std / math.sqrt(noise.numel())
        assert float(((noise / noise.std()).abs() < 1).float().mean()) == pytest.approx(0.6827, abs=0.01)
        assert torch.equal(bias.grad, before[m][1])
    assert abs(float(torch.corrcoef(torch.stack(noises))[0, 1])) < 0.03


def test_a_longer_table_begins_with_the_shorter_one_and_another_place_has_other_noise():
    short, long = NoiseTable(3), NoiseTable(3)
    small, large = torch.empty(7, 5), torch.empty((1 << 20) + 12345)
    long.slices([large], "first")
    a, b = (table.slices([small, small], "later") for table in (short, long))
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x, y)
    assert not torch.equal(a[0], a[1])
    assert not torch.equal(short.slices([small], "now")[0], a[0])


@pytest.mark.parametrize("n", [1, 2, 1000])
def test_the_spread_is_the_standard_deviation(n):
    g = 3.0 + torch.randn(n, generator=torch.Generator().manual_seed(n))
    expected = 0.0 if n == 1 else statistics.stdev(g.double().tolist())
    assert float(spread(g)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_noise_is_of_seed_and_step_and_touches_no_global_generator():
    def noise(seed: int, t: int) -> torch.Tensor:
        step, groups = big_step(1.0)
        method = OGMGE()
        method.prepare("ogm_ge", list(groups), 3, seed)
        method.on_gradients(replace(step, t=t), groups)
        return groups["audio"][0].grad

    state = torch.get_rng_state()
    assert torch.equal(noise(0, 3), noise(0, 3))
    assert not torch.equal(noise(0, 3), noise(0, 4))
    assert not torch.equal(noise(0, 3), noise(1, 3))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("epochs", "on"), [((0, 2), [True, True, False, False]), ((1, 3), [False, True, True, False])])
def test_it_acts_in_its_epochs_only(epochs, on, monkeypatch):
    spec = toy_spec(2, (1, 4, 4))
    method = OGMGE(begins=epochs[0], ends=epochs[1])
    plain, run = (
        train(asgml(), toy_batches(2, spec), spec=spec, encoder=ToyConv, methods=m, epochs=4)
        for m in ({"joint": Joint()}, {"ogm_ge": method})
    )
    first = on.index(True)
    assert not differences(plain.trace.states[: 2 * first], run.trace.states[: 2 * first])
    assert differences(plain.trace.states[2 * first], run.trace.states[2 * first])
    calls = []
    monkeypatch.setattr(
        "asgml.methods.ogm_ge.scores", lambda step, z: calls.append(step.epoch) or {m: torch.ones(()) for m in z}
    )
    train(asgml(), toy_batches(2, spec), spec=spec, encoder=ToyConv, methods={"ogm_ge": method}, epochs=4)
    assert calls == [e for e, active in enumerate(on) if active for _ in range(2)]


def test_a_fusion_with_parts_of_its_own_is_scored_by_them():
    def more(module):
        step, linears = module.step, module.net.fusion.linears
        by_hand = {
            m: float(torch.softmax(linears[m](f), 1)[range(len(step.y)), step.y].mean())
            for m, f in step.features.items()
        }
        found = scores(step, {m: step.slices(m) for m in step.here})
        return {m: float(p) for m, p in found.items()}, by_hand

    capture, spec = Capture(more), toy_spec(2, (1, 4, 4))
    methods = {"ogm_ge": OGMGE()}
    train(asgml(), toy_batches(3, spec), spec=spec, fusion=Sum, encoder=ToyConv, methods=methods, extra=[capture])
    for found, expected in capture.seen:
        assert found == pytest.approx(expected)


def test_an_encoder_without_kernels_has_all_its_weights_modulated_and_one_with_kernels_only_these():
    vector, matrix, kernel = (torch.nn.Parameter(torch.ones(shape)) for shape in ((3,), (3, 3), (3, 3, 2, 2)))
    for kernels, params, expected in (
        ("auto", [vector, matrix, kernel], [kernel]),
        ("auto", [vector, matrix], [matrix]),
        ("conv", [vector, matrix, kernel], [kernel]),
        ("all", [vector, matrix, kernel], [matrix, kernel]),
    ):
        assert [id(p) for p in modulated(params, kernels)] == [id(p) for p in expected]
    with pytest.raises(UserError, match="no convolution kernels"):
        train(asgml(), encoder=ToyEncoder, methods={"ogm_ge": OGMGE(kernels="conv")})
    auto, every = (train(asgml(), encoder=ToyEncoder, methods={"ogm_ge": OGMGE(kernels=k)}) for k in ("auto", "all"))
    assert same(auto.final, every.final)


def test_the_published_epochs_are_0_to_50_both_included():
    """The kernels' gradients change in epoch 50 and in epoch 51 no more; before, 49 was the last one."""
    logits = {"audio": torch.tensor([[2.0, 0.0]]), "visual": torch.zeros(1, 2)}
    step = Step(
        y=torch.tensor([0]), present=dict.fromkeys(logits), features={m: torch.zeros(1, 3) for m in logits},
        logits=torch.zeros(1, 2), unimodal=logits, slices=lambda m: logits[m],
        losses=dict.fromkeys(logits, torch.ones(())), mean=lambda values, m: values.mean(), t=0, epoch=50,
        training=True,
    )  # fmt: skip
    kernels = {m: [torch.nn.Parameter(torch.ones(1, 1, 2, 2))] for m in logits}
    found = {}
    for epoch in (0, 49, 50, 51):
        for (p,) in kernels.values():
            p.grad = torch.ones_like(p)
        found[epoch] = OGMGE(noise=False).on_gradients(replace(step, epoch=epoch), kernels)
    assert found == {0: {"audio", "visual"}, 49: {"audio", "visual"}, 50: {"audio", "visual"}, 51: set()}
