"""Adapters: the measured scale is met once, on a batch; relative magnitudes and other rows are left alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from callbacks.errors import UserError
from latentwire.adapters.affine import AffineAdapter
from latentwire.adapters.base import Adapter
from latentwire.adapters.calibration import Mode
from latentwire.adapters.channel_affine import ChannelAffineAdapter
from latentwire.adapters.film import FiLMAdapter
from latentwire.adapters.linear import LinearAdapter
from latentwire.adapters.mixture import MixtureAdapter
from latentwire.adapters.mlp import MLPAdapter
from latentwire.adapters.task import TaskAdapter
from latentwire.adapters.whitened import WhitenedAdapter

D, TARGET = 16, 0.008
ADAPTERS: list[Callable[..., Adapter]] = [MLPAdapter, LinearAdapter, FiLMAdapter, AffineAdapter, MixtureAdapter,
                                          WhitenedAdapter, partial(TaskAdapter, tasks=["a"], task="a")]  # fmt: skip
each = pytest.mark.parametrize("cls", ADAPTERS)


def make(cls: Callable[..., Adapter], calibration: Mode = "batch") -> Adapter:
    torch.manual_seed(0)
    return cls(d_z=D, d_out=D, target=TARGET, calibration=calibration)


def latents(seed: int = 1) -> Tensor:
    """Slots of clearly different magnitude."""
    return torch.randn(6, 5, D, generator=torch.Generator().manual_seed(seed)) * torch.logspace(-1, 1, 5)[:, None]


def rms(y: Tensor, *axes: int) -> Tensor:
    return y.pow(2).mean(axes).sqrt()


@each
def test_the_batch_has_the_target_rms_and_tokens_keep_their_magnitudes(cls) -> None:
    adapter, z = make(cls).eval(), latents()
    adapter.calibrate(z)
    y = adapter(z)
    assert float(rms(y, 0, 1, 2)) == pytest.approx(TARGET, rel=1e-4)
    ratio = rms(y, 2) / rms(adapter.raw(z), 2)
    torch.testing.assert_close(ratio, ratio.flatten()[0].expand_as(ratio))  # one factor for all tokens
    assert rms(y, 2).max() > 5 * rms(y, 2).min()


@each
def test_per_token_calibration_gives_every_token_the_target(cls) -> None:
    y = make(cls, "token").eval()(latents())
    torch.testing.assert_close(rms(y, 2), torch.full((6, 5), TARGET))


@each
def test_without_calibration_nothing_is_scaled(cls) -> None:
    adapter = make(cls, "none").eval()
    assert torch.equal(adapter(latents()), adapter.raw(latents()))
    assert adapter.calibration.gain is None


@each
def test_the_gain_starts_at_one_and_scales_everything(cls) -> None:
    adapter, z = make(cls).eval(), latents()
    adapter.calibrate(z)
    before = adapter(z)
    gain = adapter.calibration.gain
    assert gain is not None
    assert float(gain) == 1.0
    with torch.no_grad():
        gain.fill_(3.0)
    torch.testing.assert_close(adapter(z), 3 * before)


@each
def test_a_batch_is_its_rows_and_later_batches_move_no_scale(cls) -> None:
    adapter, z = make(cls).eval(), latents()
    adapter.calibrate(z)
    adapter.train()(100 * latents(2))
    adapter.eval()
    together = adapter(z)
    for i in range(len(z)):
        torch.testing.assert_close(adapter(z[i : i + 1])[0], together[i])


@each
def test_slots_are_treated_alike(cls) -> None:
    adapter, z = make(cls).eval(), latents()
    adapter.calibrate(z)
    order = torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(adapter(z[:, order]), adapter(z)[:, order])


@each
@pytest.mark.parametrize("mode", ["batch", "token", "none"])
def test_gradients_reach_every_parameter_and_the_latents(cls, mode: Mode) -> None:
    adapter, z = make(cls, mode), latents().requires_grad_()
    adapter.calibrate(z)
    (adapter(z) * torch.randn(6, 5, D)).sum().backward()
    for name, p in adapter.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name
    assert z.grad is not None
    assert bool((z.grad.abs().sum(2) > 0).all())


@each
def test_a_saved_state_brings_its_calibration(cls) -> None:
    adapter, other, z = make(cls).eval(), cls(d_z=D, d_out=D, target=1.0).eval(), latents()
    with pytest.raises(RuntimeError, match="not calibrated"):
        adapter(z)
    adapter.calibrate(z)
    other.load_state_dict(adapter.state_dict())
    assert torch.equal(other(z), adapter(z))


def test_calibration_leaves_the_mode_and_sees_no_dropout() -> None:
    torch.manual_seed(0)
    adapter = MLPAdapter(D, D, TARGET, dropout=0.9).train()
    adapter.calibrate(latents())
    assert adapter.training
    assert float(rms(adapter.eval()(latents()), 0, 1, 2)) == pytest.approx(TARGET, rel=1e-4)


def test_film_reads_the_whole_message() -> None:
    adapter, z = make(FiLMAdapter).eval(), latents()
    changed = z.clone()
    changed[:, 4] += 1
    assert not torch.allclose(adapter.raw(z)[:, 0], adapter.raw(changed)[:, 0])
    linear = adapter.linear(z)
    assert float(rms(adapter.raw(z) - linear, 0, 1, 2)) < 0.2 * float(rms(linear, 0, 1, 2))


def test_affine_starts_as_the_identity_and_needs_equal_widths() -> None:
    assert torch.equal(make(AffineAdapter).raw(latents()), latents())
    with pytest.raises(UserError, match="adapter=linear"):
        AffineAdapter(D, D + 1, TARGET)


def test_impossible_scales_are_refused() -> None:
    for target in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="positive RMS"):
            LinearAdapter(D, D, target)
    for z in (torch.zeros(1, 2, D), torch.full((1, 2, D), torch.nan)):
        with pytest.raises(UserError, match="finite and not zero"):
            make(AffineAdapter).calibrate(z)


@torch.no_grad()
def test_experts_are_mixed_by_what_a_slot_holds_and_start_near_one_map() -> None:
    torch.manual_seed(0)
    adapter = MixtureAdapter(D, D, 1.0, experts=3, calibration="none")
    z, true = torch.randn(8, 5, D), torch.randn(D, D)
    adapter.fit([(z, z @ true.T)])
    fitted = [expert.weight for expert in adapter.experts]  # type: ignore[union-attr]
    torch.testing.assert_close(fitted[0], true, rtol=0, atol=0.05)
    assert not torch.equal(fitted[1], fitted[2])
    assert float((adapter(z) - z @ true.T).pow(2).mean() / (z @ true.T).pow(2).mean()) < 0.02
    torch.nn.init.normal_(adapter.gate.weight)
    share = (z[0, 0] @ adapter.gate.weight.T).softmax(0)
    by_hand = sum((s * expert(z[0, 0]) for s, expert in zip(share, adapter.experts, strict=True)), torch.zeros(D))
    torch.testing.assert_close(adapter(z)[0, 0], by_hand)


def test_a_slot_modulates_itself_where_it_is_asked_to() -> None:
    z = latents()
    changed = z.clone()
    changed[:, 0] += 1
    for by, others in (("message", False), ("slot", True)):
        torch.manual_seed(0)
        adapter = FiLMAdapter(D, D, 1.0, calibration="none", by=by).eval()  # type: ignore[arg-type]
        assert torch.equal(adapter(z)[:, 1:], adapter(changed)[:, 1:]) == others


def test_channels_are_scaled_behind_the_calibration_and_the_penalty_is_of_that_alone() -> None:
    adapter, z = ChannelAffineAdapter(D, D, TARGET), latents()
    adapter.calibrate(z)
    penalty = adapter.penalty()
    assert float(penalty) == 0
    plain = adapter(z)
    with torch.no_grad():
        adapter.scale.copy_(torch.linspace(0.5, 2, D))
        adapter.shift.fill_(0.5)
    torch.testing.assert_close(adapter(z), plain * torch.linspace(0.5, 2, D) + 0.5 * TARGET)
    literal = sum((float(a) - 1) ** 2 for a in torch.linspace(0.5, 2, D)) / D + 0.25
    assert float(adapter.penalty()) == pytest.approx(literal)
    adapter.penalty().backward()
    assert {n for n, p in adapter.named_parameters() if p.grad is not None} == {"scale", "shift"}


@pytest.mark.parametrize("by", ["channels", "directions"])
def test_whitening_standardises_the_slots_and_leaves_the_map_as_it_was(by) -> None:
    g = torch.Generator().manual_seed(2)
    z = torch.randn(50, 8, D, generator=g) @ (torch.eye(D) + 0.15 * torch.randn(D, D, generator=g)) + 3.0
    adapter = WhitenedAdapter(D, D, 1.0, by=by, calibration="none").eval()
    before = adapter.raw(z)
    adapter.calibrate(z)
    torch.testing.assert_close(adapter.raw(z), before, rtol=1e-3, atol=1e-3)
    seen = ((z - adapter.mean) @ adapter.root.T).flatten(0, 1)
    covariance = sum(torch.outer(x - seen.mean(0), x - seen.mean(0)) for x in seen) / len(seen)
    torch.testing.assert_close(seen.mean(0), torch.zeros(D), rtol=0, atol=1e-3)
    torch.testing.assert_close(covariance.diagonal(), torch.ones(D), rtol=0, atol=0.02)  # type: ignore[union-attr]
    away = covariance - torch.diag(covariance.diagonal())  # type: ignore[union-attr]
    assert (float(away.abs().max()) < 0.02) == (by == "directions")
    one = adapter(z[:1])
    adapter.train()
    torch.testing.assert_close(adapter(z)[:1], one)  # no neighbour matters, in training neither
    adapter.calibrate(z * 5)
    torch.testing.assert_close(adapter.raw(z), before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("by", ["film", "shift"])
def test_a_task_starts_as_the_map_itself_and_learns_a_vector_of_its_own(by) -> None:
    z, made = latents(), [make(LinearAdapter), make(partial(TaskAdapter, tasks=["a", "b"], task="b", by=by))]
    for adapter in made:
        adapter.calibrate(z)
    plain, b = made
    assert torch.equal(plain(z), b(z))
    row = torch.arange(D) / D
    with torch.no_grad():
        b.of[:, 1] = row  # type: ignore[operator, index]
    literal = (1 + row * (by == "film")) * plain(z) + row * TARGET
    torch.testing.assert_close(b(z), literal)
    a = make(partial(TaskAdapter, tasks=["a", "b"], task="a", by=by))
    a.load_state_dict(b.state_dict())
    assert torch.equal(a(z), plain(z)), "the other task is where it was"
    a(z).sum().backward()
    assert not a.of.grad[:, 1].any()  # type: ignore[union-attr, index]
    assert a.of.grad[:, 0].all()  # type: ignore[union-attr, index]


def test_tasks_that_cannot_be_are_refused() -> None:
    for tasks, task, where in (
        (["a"], "b", "adapter.task"),
        (["a", "a"], "a", "adapter.tasks"),
        (["a.b"], "a.b", "tasks"),
    ):
        with pytest.raises(UserError, match=where.replace(".", r"\.")):
            make(partial(TaskAdapter, tasks=tasks, task=task))
