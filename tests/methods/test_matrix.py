"""Every registered method, found by its YAML: it runs, resumes, leaves no trace of a veto, does not wait for the
device, all its hyper-parameters act, and all its loss terms have a gradient."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from alternatives import AUDIO_ONLY, FILES, MAY_STAND_STILL, METHODS, OTHER, OWN, RUN, target
from asgml_runs import ROOT, compose, differing, finish_treated, fit, prepare, weights
from omegaconf import DictConfig
from states import unequal

from asgml.build import Parts
from callbacks.errors import UserError
from callbacks.step.divergence import LOSSES, not_finite
from suite.runs.identity import run_dir

SLOW = {"asgml_frequency", "asgml_adaptive_frequency"} | {name for name in METHODS if name.startswith("control_")}
POISONED = (1, 2)  # epoch and batch with a NaN
ALONE = (1, 1)  # epoch and batch that nobody has audio in


def marked(names: Sequence[str]) -> list[Any]:
    return [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in names]


def line(npz: Path, runs: Path, name: str, teacher: Path | None, *more: str) -> DictConfig:
    """The tree of a small run of one method: three epochs of four batches."""
    paths = {"teacher": f"'{teacher}'", "second": f"'{teacher}.second'"}
    given = [o.format(**paths) for o in [*RUN.get(name, []), *more]]
    reads_probes = name.startswith("boost") or "adaptive" in name or "yoked" in name
    quiet = ["callbacks.probe.every=4", "callbacks.probe.holdout_size=8"] if reads_probes else ["callbacks.probe=null"]
    if not any(o.startswith("callbacks.checkpoint.") for o in more):
        quiet += ["callbacks.checkpoint.monitor=null", "callbacks.checkpoint.every_n_epochs=3"]
    cfg = compose(
        [
            "experiment=features", f"method={name}", f"data.path={npz}", "data.dominant=audio", f"paths.runs={runs}",
            "loader.batch_size=8", "loader.eval_batch_size=16", "optimizer.lr=0.05", "trainer.max_epochs=3",
            "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "callbacks.progress=null",
            "callbacks.diagnostics=null", "+callbacks.gate.bad_loss=skip", "model.encoder.dim=8", "cosine_every=0",
            *quiet, *given,
        ]
    )  # fmt: skip
    if "yoked" in name:
        finish_treated(cfg)
    return cfg


@pytest.fixture(autouse=True)
def short_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws less noise per run than the weights of large models are to share."""
    monkeypatch.setattr("asgml.methods.shared.draws.SPAN", 1 << 16)
    monkeypatch.setattr("asgml.methods.shared.draws.ROOM", 1 << 14)


@pytest.fixture(scope="session")
def teachers(features: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Checkpoints with encoders of other first weights, by number of modalities."""
    folder, out = tmp_path_factory.mktemp("teachers"), {}
    for n, npz in features.items():
        out[n] = folder / f"{n}.ckpt"
        for seed, path in ((7, out[n]), (8, f"{out[n]}.second")):
            parts = prepare(line(npz, folder, "joint", None, f"seed={seed}"))
            torch.save({"state_dict": parts.module.state_dict()}, path)
    return out


class Trouble(L.Callback):
    """A batch without audio and a batch with a NaN, whose step must leave nothing behind."""

    def __init__(self) -> None:
        self.bad: dict[str, float] = {}  # losses of other batches that would end the run

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        at = (trainer.current_epoch, batch_idx)
        if at == ALONE:
            batch["x"]["audio"] = batch["x"]["audio"][:0]
            batch["rows"]["audio"] = torch.arange(0)
        if at == POISONED:
            for x in batch["x"].values():
                x[:1] = torch.nan
            self.before = self.look(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == POISONED:
            self.traces = unequal(self.before, self.look(trainer, pl_module))
        else:
            host = pl_module._pipeline.ctx.host
            self.bad |= not_finite({name: value for name, value in host.items() if name.startswith(LOSSES)})

    @staticmethod
    def look(trainer: Any, module: Any) -> Any:
        hidden = {name: kept(vars(method)) for name, method in module.methods.items()}
        return copy.deepcopy(
            {
                "module": module.state_dict(),
                "state": module._pipeline.stage("modulation").state(),
                "optimizer": trainer.optimizers[0].state_dict()["state"],
                "hidden": hidden,
            }
        )


def kept(values: dict[Any, Any]) -> dict[Any, Any]:
    """Numbers, tensors and containers of a method; not modules (in the weights) and generators (seeded per step)."""
    out = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out[key] = kept(value)
        elif not isinstance(value, torch.nn.Module | torch.Generator):
            out[key] = value
    return out


class Terms(L.Callback):
    """Which loss terms had a gradient that is not zero, over the run."""

    def __init__(self) -> None:
        self.seen: dict[str, bool] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for name, method in pl_module.methods.items():
            method.loss = self.watching(name, method.loss, [p for p in pl_module.parameters() if p.requires_grad])

    def watching(self, name: str, loss: Any, params: list[Any]) -> Any:
        def watched(step: Any) -> dict[str, torch.Tensor]:
            terms = loss(step)
            for key, term in terms.items():
                if not bool(torch.isfinite(term)):
                    continue
                found = (
                    torch.autograd.grad(term, params, retain_graph=True, allow_unused=True)
                    if term.requires_grad
                    else []
                )
                some = any(g is not None and bool(g.abs().sum() > 0) for g in found)
                self.seen[f"{name}/{key}"] = self.seen.get(f"{name}/{key}", False) or some
            return terms

        return watched


@pytest.mark.parametrize("modalities", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", marked(METHODS))
def test_it_trains_with_missing_modalities_and_a_veto_leaves_no_trace(
    features: dict[int, Path], teachers: dict[int, Path], tmp_path: Path, name: str, modalities: int
) -> None:
    """Rows missing in all splits, one batch without the dominant modality, one vetoed: the others are committed."""
    cfg = line(features[modalities], tmp_path, name, teachers[modalities])
    start = weights(prepare(cfg))
    trouble, terms = Trouble(), Terms()
    parts = fit(cfg, [trouble, terms])
    end = weights(parts)
    vetoed = 1 + (name in AUDIO_ONLY)
    assert (parts.pipeline.t, parts.pipeline.vetoed) == (12 - vetoed, vetoed)
    assert trouble.traces == []
    assert trouble.bad == {}
    assert all(torch.isfinite(v).all() for v in end.values())
    for m in parts.module.modalities:
        moved = any(not torch.equal(start[k], end[k]) for k in start if k.startswith(f"net.encoders.{m}."))
        assert moved != (m in MAY_STAND_STILL.get(name, set())), m
    found = parts.module.predictions["val"].prob
    assert found.shape == (16, 4)
    assert np.allclose(found.sum(1), 1, atol=1e-5)
    assert [term for term, some in terms.seen.items() if not some] == []


class Killed(RuntimeError):
    """Stands for the end of a process."""


class Kill(L.Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.step:
            raise Killed


@pytest.mark.parametrize("name", marked(METHODS))
def test_it_resumes_bit_identically(
    features: dict[int, Path], teachers: dict[int, Path], tmp_path: Path, name: str
) -> None:
    """Killed within the second and within the third epoch, checkpoints at every second step, a veto between."""
    every = ["callbacks.checkpoint.every_n_steps=2", "optimizer.momentum=0.9"]
    whole = line(features[2], tmp_path / "whole", name, teachers[2], *every)
    expected = fit(whole, [Trouble()])
    broken = line(features[2], tmp_path / "broken", name, teachers[2], *every)
    for step, resume in ((7, False), (11, True)):
        with pytest.raises(Killed):
            fit(broken, [Trouble(), Kill(step)], resume=resume)
    resumed = fit(broken, [Trouble()], resume=True)
    assert not unequal(weights(expected), weights(resumed))
    a, b = (torch.load(run_dir(c) / "checkpoints" / "last.ckpt", weights_only=True) for c in (whole, broken))
    for saved in (a, b):
        del saved["restart"]["history"]  # file sizes: step times have more or fewer digits
    assert not unequal(a, b)
    assert expected.module.metrics == resumed.module.metrics


def _rule_10() -> Any:
    spec = importlib.util.spec_from_file_location("rule_10", ROOT / "tests/invariant/test_rule_10_buffers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", marked(METHODS))
def test_its_step_waits_for_the_device_once(
    features: dict[int, Path], teachers: dict[int, Path], tmp_path: Path, name: str
) -> None:
    """Nothing is read but in the step's one `host_read` (and where probes are scored), nothing is written."""
    cfg = line(features[3], tmp_path, name, teachers[3])
    for t, found in enumerate(_rule_10().watched(cfg)):
        scored = cfg.callbacks.probe is not None and (t + 1) % 4 == 0
        declared = [f for f in found if f.startswith("host_read: ")]
        host = [f for f in found if f.startswith("_chosen: ")]  # `random_skip` draws on the CPU
        rest = [f for f in found if f not in [*declared, *host]]
        assert (len(declared), rest) == (1 + scored, []), f"step {t}"


def hyper_parameters() -> list[tuple[str, str]]:
    """Pairs methods whose YAML has a node of their own with each parameter of the constructor."""
    return [(n, f.name) for n in OWN for f in fields(target(n)) if f.init]


def other(name: str, field: str, value: Any) -> tuple[Any, list[str] | str]:
    """Another value of a field, and what both runs need for it to act."""
    given = OTHER.get(name, {}).get(field)
    if given is not None:
        return given if isinstance(given, tuple) else (given, [])
    if isinstance(value, bool):
        return not value, []
    if isinstance(value, int):
        return value + 1, []
    if isinstance(value, float):
        return 2 * value if value else 1.0, []
    pytest.fail(f"tests/methods/alternatives.py: OTHER['{name}']['{field}'] is needed: {value!r}")


_RUNS: dict[tuple[str, ...], Parts] = {}


def ended(npz: Path, folder: Path, name: str, teacher: Path, *more: str) -> Parts:
    """A run, once for the same settings."""
    key = (name, *more)
    if key not in _RUNS:
        _RUNS[key] = fit(line(npz, folder, name, teacher, *more))
    return _RUNS[key]


@pytest.mark.parametrize(("name", "field"), hyper_parameters())
def test_every_hyper_parameter_changes_the_result(
    features: dict[int, Path], teachers: dict[int, Path], tmp_path: Path, name: str, field: str
) -> None:
    """Weights or, for what acts in evaluation only, predictions; a value that means nothing here must be refused."""
    now = line(features[2], tmp_path, name, teachers[2]).methods[name][field]
    value, needs = other(name, field, now)
    assert value != now
    text = json.dumps(value).replace('"', "").replace(" ", "")
    text = text.replace("{", "{{").replace("}", "}}")
    text = text.replace("{{teacher}}", "{teacher}").replace("{{second}}", "{second}")
    if needs == "refused":
        with pytest.raises(UserError):
            fit(line(features[2], tmp_path, name, teachers[2], f"methods.{name}.{field}={text}"))
        return
    assert not isinstance(needs, str)
    a = ended(features[2], tmp_path / "a", name, teachers[2], *needs)
    b = fit(line(features[2], tmp_path / "b", name, teachers[2], *needs, f"methods.{name}.{field}={text}"))
    changed = differing(weights(a), weights(b)) if weights(a).keys() == weights(b).keys() else ["keys"]
    assert changed or not np.array_equal(a.module.predictions["val"].prob, b.module.predictions["val"].prob)


@pytest.mark.parametrize("name", OWN)
def test_the_yaml_gives_every_parameter_its_default(name: str) -> None:
    """So that `--cfg job` shows all that can be set, and code and YAML do not drift apart."""
    node = yaml.safe_load(FILES[name].read_text())
    public = {f.name: f.default for f in fields(target(name)) if f.init}
    assert set(node) == {"_target_", *public}
    for key, default in public.items():
        if not (isinstance(node[key], str) and (node[key] == "???" or node[key].startswith("${"))):
            assert node[key] == pytest.approx(default) if isinstance(default, float) else node[key] == default, key
