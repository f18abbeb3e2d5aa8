"""Specification A2.10: buffers of delayed modalities only, without copies, and one declared host read per step."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from asgml_runs import config, differing, fit, prepare, weights, write_features
from torch.utils._python_dispatch import TorchDispatchMode

from asgml.build import Parts
from callbacks.run.checkpoint import StepCheckpoint
from callbacks.stages.stale_gradients import CopyRing
from callbacks.stages.staleness import StalenessBuffer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("buffers") / "data.npz", missing=0.2)


# -- buffers -----------------------------------------------------------------------------------------------------


def buffer(parts: Parts) -> StalenessBuffer:
    stage = parts.pipeline.stage("staleness")
    assert isinstance(stage, StalenessBuffer)
    return stage


class Filled(L.Callback):
    """Notes which slots of each ring are filled after every step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, int]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        rings = pl_module.rhythm.buffer._rings
        self.seen.append({m: sum(kept is not None for kept in r.slots) for m, r in rings.items()})


def test_only_the_delayed_modality_has_a_buffer_of_tau_gradients(data: Path, tmp_path: Path) -> None:
    watch = Filled()
    parts = fit(config(data, tmp_path, "asgml.tau=3"), [watch])
    size = sum(p.numel() for p in parts.module.net.groups()["audio"])
    assert len(watch.seen) == 20
    assert max(seen["audio"] for seen in watch.seen) == 3
    assert watch.seen[0].keys() == {"audio"}
    assert parts.pipeline.counters()["staleness_buffer_mb"] == 3 * size * 4 / 2**20


def test_each_modality_has_slots_for_its_own_delay(data: Path, tmp_path: Path) -> None:
    parts = fit(config(data, tmp_path, "asgml.tau={audio:1,visual:4}"))
    slots = {m: len(r.norms) for m, r in buffer(parts)._rings.items()}
    assert slots == {"audio": 2, "visual": 5}


def test_no_delay_needs_no_memory(data: Path, tmp_path: Path) -> None:
    assert fit(config(data, tmp_path, "asgml.tau=0")).pipeline.counters()["staleness_buffer_mb"] == 0


@pytest.mark.parametrize("compensation", ["none", "delay_compensated"])
def test_bfloat16_storage_halves_the_gradients_only(data: Path, tmp_path: Path, compensation: str) -> None:
    """Weights of delay_compensated stay exact: rounding them would swamp theta_t - theta_{t-tau}."""
    same = [f"asgml.compensation={compensation}"]
    exact = fit(config(data, tmp_path, *same))
    half = fit(config(data, tmp_path, *same, "asgml.buffer_dtype=bfloat16"))
    ring = buffer(half)._rings["audio"]
    assert isinstance(ring, CopyRing)
    assert ring.flat.dtype == torch.bfloat16
    kept = buffer(half)._weights
    assert all(r.flat.dtype == torch.float32 for r in kept.values())
    mb = [p.pipeline.counters()["staleness_buffer_mb"] for p in (exact, half)]
    tau, slots = 2, 3  # copies: the slot of the step in progress counts as well
    assert mb[1] / mb[0] == pytest.approx((0.5 * slots + slots) / (tau + slots) if kept else 0.5 * slots / tau)
    a, b = weights(exact), weights(half)
    assert differing(a, b)
    for k in a:
        torch.testing.assert_close(b[k], a[k], rtol=0.05, atol=0.03)


def test_storage_on_the_cpu_changes_no_bit(data: Path, tmp_path: Path) -> None:
    same = fit(config(data, tmp_path, "asgml.delayed=all"))
    cpu = fit(config(data, tmp_path, "asgml.delayed=all", "asgml.buffer_device=cpu"))
    assert not differing(weights(same), weights(cpu))
    assert all(r.slots for r in buffer(cpu)._rings.values())  # on the CPU already: nothing is copied


def test_fresh_gradients_are_exact_even_with_bfloat16_storage(data: Path, tmp_path: Path) -> None:
    """Adaptive mode buffers everybody; as long as it decides tau 0, the run is bit-identical to sync."""
    tau_0 = ["method=asgml_adaptive", "asgml.adaptive.signal=utilisation", "asgml.adaptive.threshold_delta=1.0",
             "asgml.buffer_dtype=bfloat16"]  # fmt: skip
    adaptive = fit(config(data, tmp_path, *tau_0))
    assert set(buffer(adaptive)._rings) == {"audio", "visual"}
    assert adaptive.pipeline.counters()["applied"]["audio"] > 10
    assert not differing(weights(fit(config(data, tmp_path, "method=uniform"))), weights(adaptive))


# -- host reads --------------------------------------------------------------------------------------------------

READS = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__", "__index__", "__array__")
OPS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal",
       "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive")  # fmt: skip


class Synchronisations(TorchDispatchMode):
    """Finds everything that would make the host wait for the device, by the innermost function of ours that does it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split(".")[0]
        masked = name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
            t is not None and t.dtype == torch.bool for t in args[1]
        )
        if name in OPS or masked:
            self.note(name)
        return func(*args, **(kwargs or {}))

    def note(self, what: str) -> None:
        frames = traceback.extract_stack()[:-2]
        ours = [f for f in frames if "/callbacks/" in f.filename or "/asgml/" in f.filename]
        inner = frames[max(i for i, f in enumerate(frames) if f is ours[-1]) + 1 :]
        if any("/torch/optim/" in f.filename for f in inner):
            return  # the step counters of optimisers live on the CPU
        self.found.append(f"{ours[-1].name}: {what}")

    @contextmanager
    def watching(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        for name in READS:
            original = getattr(torch.Tensor, name)

            def patched(*args: Any, _original: Any = original, _name: str = name, **kwargs: Any) -> Any:
                self.note(_name)
                return _original(*args, **kwargs)

            monkeypatch.setattr(torch.Tensor, name, patched)
        create = torch.tensor

        def tensor(*args: Any, **kwargs: Any) -> Any:
            self.note("torch.tensor")  # on CUDA a copy that waits
            return create(*args, **kwargs)

        monkeypatch.setattr(torch, "tensor", tensor)
        with self:
            yield


class Counting(L.Callback):
    """Watches from the start of a batch to the end of all other callbacks but those that save."""

    def __init__(self) -> None:
        self.steps: list[list[str]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.mode = Synchronisations()
        self.context = self.mode.watching(self.patch)
        self.context.__enter__()

    def stop(self) -> None:
        self.context.__exit__(None, None, None)
        self.patch.undo()
        self.steps.append(self.mode.found)


class Stop(L.Callback):
    def __init__(self, counting: Counting):
        self.counting = counting

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.counting.stop()


def watched(cfg: Any) -> list[list[str]]:
    """Return what was found in each step of a run."""
    counting = Counting()
    parts = prepare(cfg)
    callbacks: list[Any] = parts.trainer.callbacks  # type: ignore[attr-defined]
    callbacks.insert(0, counting)
    callbacks.insert(next(i for i, c in enumerate(callbacks) if isinstance(c, StepCheckpoint)), Stop(counting))
    parts.trainer.fit(parts.module, datamodule=parts.data)
    return counting.steps


MODES = {
    "sync": ["method=uniform"],
    "joint": ["method=joint"],
    **{f"frequency-{m}": ["method=asgml_frequency", f"asgml.masking={m}"]
       for m in ("soft", "hard", "fusion_preserving", "accumulate")},
    **{f"staleness-{c}": [f"asgml.compensation={c}"] for c in ("inverse", "delay_compensated")},
    "staleness-bfloat16": ["asgml.buffer_dtype=bfloat16", "asgml.through=gradient"],
    "adaptive": ["method=[asgml_adaptive,boost]", "asgml.adaptive.update_every=1", "asgml.adaptive.tau_base=1"],
    "adaptive-frequency": ["method=asgml_adaptive", "asgml.adaptive.kind=frequency"],
    "ogm_ge": ["method=ogm_ge", "methods.ogm_ge.kernels=all"],
    "clipped-adamw": ["method=uniform", "callbacks.clip.max_norm=0.5", "optimizer=adamw"],
    "ema": ["method=uniform", "averaging=ema", "callbacks.averaging.decay=0.9"],
    "batch-norm": ["asgml.tau=2", "model.encoder.norm=batch"],
    "float64": ["method=uniform", "trainer.precision=64-true"],
    "bf16-mixed": ["method=uniform", "trainer.precision=bf16-mixed"],
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_a_step_reads_from_the_device_once(data: Path, tmp_path: Path, mode: str) -> None:
    """Once per step; once more where ‖Δparam‖ is logged (every 5 here), and where probes are scored (every 4).

    Held for every batch, with rows missing, and nowhere but in `host_read`; nothing is written to the device.
    """
    intervals = ["callbacks.diagnostics.every=5", "callbacks.probe.every=4", "cosine_every=3"]
    steps = watched(config(data, tmp_path, *MODES[mode], *intervals, "trainer.max_epochs=1"))
    assert len(steps) == 10
    for t, found in enumerate(steps):
        scored = (t + 1) % 4 == 0
        reads = 1 + (t == 0 or (t + 1) % 5 == 0) + scored
        declared = [f for f in found if f.startswith("host_read: ")]
        rest = [f for f in found if f not in declared]
        assert (len(declared), rest) == (reads, []), f"step {t}"


def test_the_progress_bar_reads_nothing_from_the_device(data: Path, tmp_path: Path) -> None:
    bar = "callbacks.progress={_target_:callbacks.StepProgress}"
    cfg = config(data, tmp_path, "method=uniform", bar, "trainer.enable_progress_bar=true")
    steps = watched(cfg)
    assert not [f for found in steps for f in found if f.startswith("get_metrics")]


def test_the_counter_sees_what_it_should() -> None:
    mode = Synchronisations()
    x = torch.arange(3.0)
    seen = []
    note = mode.note
    mode.note = seen.append  # type: ignore[method-assign]
    patch = pytest.MonkeyPatch()
    with mode.watching(patch):
        x[x > 0]
        bool(x[0] > 1)
        float(x[0])
        torch.nonzero(x)
    patch.undo()
    assert note is not None
    assert {"aten::index", "__bool__", "__float__", "aten::nonzero"} <= set(seen)
