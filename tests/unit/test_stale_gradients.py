"""What a delayed group keeps: the gradients' own tensors, which nobody may write to, and copies of borrowed ones."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from foreign_toys import Foreign, foreign_batches
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from toys import SGD, differences, fit, loader, quiet_trainer

from callbacks.errors import UserError
from callbacks.stages.clip import GroupClip
from callbacks.stages.gate import StepGate
from callbacks.stages.stale_gradients import CopyRing, Ring, own_memory
from callbacks.stages.staleness import StalenessBuffer, memory_is_reused
from callbacks.step.groups import Group
from callbacks.step.phases import Phase
from callbacks.step.pipeline import StepPipeline
from callbacks.step.stage import Stage

NESTEROV = partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, foreach=True)  # adds to p.grad in place
DECAY = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.1)


class Copying(StalenessBuffer):
    """Keeps copies, whatever the gradients are: what the tensors themselves have to agree with."""

    def _ring(self, group: Group, capacity: int, reused: bool) -> Ring | CopyRing:
        return super()._ring(group, capacity, reused=True)


class InPlace(Foreign):
    """Zeroes gradients in place and lets the next backward pass add to them."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad(set_to_none=False)
        self.manual_backward(self.loss(batch))
        optimizer.step()


class Never(InPlace):
    """Sums up gradients over all batches: nothing is ever set to None."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch))
        self.optimizers().step()  # type: ignore[union-attr]


MODULES = {
    "none": lambda o: Foreign(False, o),
    "automatic": lambda o: Foreign(True, o),
    "in place": lambda o: InPlace(False, o),
    "never": lambda o: Never(False, o),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "inverse": {},
    "gradient": {"through": "gradient"},
    "delay_compensated": {"compensation": "delay_compensated", "mu": 0.5},
    "fresh": {"warmup": "fresh"},
    "longer": {"max_delay": 4},
}


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("optimizer", [NESTEROV, DECAY], ids=["nesterov", "decay"])
def test_kept_tensors_and_copies_train_the_same_to_the_last_bit(module, settings, optimizer):
    """With clipping, vetoed steps, an optimiser that writes to gradients, and gradients that are zeroed in place."""
    ends, states = [], []
    for kind in (StalenessBuffer, Copying):
        buffer = kind({"a": 2, "b": 1}, **SETTINGS[settings])
        pipeline = StepPipeline([buffer, GroupClip(0.05), StepGate()], announce=False)
        ends.append(fit(MODULES[module](optimizer), foreign_batches(12, poison=[3, 7]), [pipeline]).states)
        states.append(buffer.state())
    assert not differences(*ends)
    assert not differences(states[0]["stamps"], states[1]["stamps"])


class Delays(Stage):
    """Sets the delay of group a from a list, one per step."""

    name, phase = "delays", Phase.DECIDE

    def __init__(self, buffer: StalenessBuffer, delays: list[int]):
        self.buffer, self.delays = buffer, delays

    def before_forward(self, ctx) -> None:
        self.buffer.set_delay("a", self.delays[ctx.t])


def test_changing_delays_train_the_same_and_keep_no_gradient_that_is_never_due():
    delays, ends = [0, 0, 2, 2, 3, 3, 3, 3, 1, 1, 0, 0], []
    for kind in (StalenessBuffer, Copying):
        buffer = kind({"a": 0}, max_delay=3)
        stages = [Delays(buffer, delays), buffer, StepGate()]
        ends.append(fit(Foreign(False, NESTEROV), foreign_batches(12), [StepPipeline(stages, announce=False)]).states)
        if kind is StalenessBuffer:
            ring = buffer._rings["a"]
            assert isinstance(ring, Ring)
            assert ring.slots == [None] * 4  # tau 0 at the end
            assert ring.most == 3
    assert not differences(*ends)


class Copies(TorchDispatchMode):
    """Counts the elements that are copied or cloned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split(".")[0]
        if name in ("aten::_foreach_copy_", "aten::_foreach_copy"):
            self.elements += sum(t.numel() for t in args[0])
        elif name in ("aten::copy_", "aten::clone", "aten::_to_copy"):
            self.elements += args[0].numel()
        return func(*args, **(kwargs or {}))


def gradients(group: Group, seed: int) -> list[torch.Tensor | None]:
    """Give every parameter but the first a random gradient; return copies."""
    generator = torch.Generator().manual_seed(seed)
    for i, p in enumerate(group.params):
        p.grad = torch.randn(p.shape, generator=generator) if i else None
    return [None if p.grad is None else p.grad.clone() for p in group.params]


def toy_group() -> Group:
    return Group("a", list(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).parameters()), {})


@pytest.mark.parametrize("kind", ["kept", "copied", "cpu half"])
def test_a_ring_gives_back_what_it_was_given(kind):
    """Including parameters that had no gradient, and after a restart."""
    group = toy_group()

    def ring() -> Ring | CopyRing:
        dtype = torch.bfloat16 if kind == "cpu half" else None
        return Ring(group, 2) if kind == "kept" else CopyRing(group, 2, dtype, "cpu")

    first, second = ring(), ring()
    with Copies() as copies:
        given = gradients(group, 0)
        before = copies.elements
        first.push(1, torch.ones(()))
        for p in group.params:
            p.grad = torch.ones_like(p)
        first.pop(1)
        moved = copies.elements - before
    assert (moved == 0) == (kind == "kept")
    second.load_state(first.state())
    for source in (first, second):
        for p in group.params:
            p.grad = torch.ones_like(p)
        source.pop(1)
        for p, g in zip(group.params, given, strict=True):
            assert (p.grad is None) if g is None else torch.equal(p.grad, g.bfloat16().float() if "half" in kind else g)
        assert source.norms == [None, torch.ones(())]


def test_gradients_that_lie_in_memory_of_somebody_else_are_copied():
    group = toy_group()
    flat = torch.randn(group.numel)
    shared = [v.view(p.shape) for v, p in zip(flat.split([p.numel() for p in group.params]), group.params, strict=True)]
    for p, view in zip(group.params, shared, strict=True):
        p.grad = view
    assert not any(own_memory(view) for view in shared)
    assert own_memory(flat)
    assert own_memory(torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last))
    ring, expected = Ring(group, 2), [view.clone() for view in shared]
    ring.push(0, torch.ones(()))
    flat.zero_()  # its owner goes on
    ring.pop(0)
    assert all(torch.equal(p.grad, g) for p, g in zip(group.params, expected, strict=True))  # type: ignore[arg-type]


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("bucket_view", [True, False])
def test_buckets_of_ddp_are_copied_where_gradients_lie_in_them(one_rank, bucket_view):
    """One parameter fills its bucket alone, so that only DDP itself can tell whose memory it is."""
    model = DistributedDataParallel(nn.Linear(3, 1, bias=False), gradient_as_bucket_view=bucket_view)
    assert memory_is_reused(model) == bucket_view
    assert memory_is_reused(nn.Sequential(model)) == bucket_view
    weight = model.module.weight
    group, kept, expected = Group("a", [weight], {}), [], []
    ring = StalenessBuffer({"a": 2})._ring(group, 4, memory_is_reused(model))
    for step in range(3):  # DDP lays out its buckets anew after the first
        model(torch.full((1, 3), step + 1.0)).sum().backward()
        assert weight.grad is not None
        expected.append(weight.grad.clone())
        ring.push(step, torch.ones(()))
        kept.append(weight.grad.data_ptr())
        weight.grad = None
    assert (kept[1] == kept[2]) == bucket_view
    for step, g in enumerate(expected):
        ring.pop(step)
        assert weight.grad is not None
        assert torch.equal(weight.grad, g)


class Vandal(Stage):
    """Takes hold of gradients early and doubles them after the buffer has kept them."""

    name, phase = "vandal", Phase.MASK

    def before_forward(self, ctx) -> None:
        self.taken: list[torch.Tensor] = []
        weight = ctx.module.a[0].weight
        weight.register_post_accumulate_grad_hook(lambda p: self.taken.append(p.grad))

    def on_gradients(self, ctx) -> None:
        self.taken[-1].mul_(2.0)


def test_who_writes_to_a_waiting_gradient_is_told_when_it_comes_due():
    stages = [StalenessBuffer({"a": 1}), Vandal(), StepGate()]
    with pytest.raises(UserError, match="group 'a'") as refused:
        fit(Foreign(False), foreign_batches(3), [StepPipeline(stages, announce=False)])
    assert "ctx.writable" in refused.value.remedy


def test_a_step_that_the_scaler_skips_after_lightnings_clipping_leaves_the_buffer_as_it_was():
    """Lightning clips after the stages; with no gate in the pipeline, the scaler alone then skips the step."""

    class Half(Foreign):
        def __init__(self) -> None:
            super().__init__(automatic=True, optimizer=SGD)
            self.float()

    batches = [(x.float(), y) for x, y in foreign_batches(8, poison=[4])]
    ends = []
    for kept in (batches, [b for i, b in enumerate(batches) if i != 4]):
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=8.0, backoff_factor=0.999999))
        buffer = StalenessBuffer({"a": 2}, compensation="none")
        trainer = quiet_trainer([buffer], plugins=[plugin], gradient_clip_val=1e-3)
        module = Half()
        trainer.fit(module, loader(copy.deepcopy(kept)))
        ends.append({k: v.clone() for k, v in module.state_dict().items() if "a." in k and "running" not in k})
    for k in ends[0]:
        torch.testing.assert_close(ends[0][k], ends[1][k], rtol=1e-3, atol=1e-6)
