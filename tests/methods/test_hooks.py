"""The hooks themselves: what each promises, on methods that do nothing else."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from asgml_runs import config, fit, prepare
from methods_toys import observe
from torch import nn
from toys import MOMENTUM, SGD, Capture, asgml, differences, same, toy_batches, toy_spec, train

from asgml.methods.base import Epoch, Method, Selection, Step
from asgml.methods.joint import Joint
from asgml.methods.mla import MLA
from asgml.methods.mmpareto import MMPareto
from asgml.methods.shared.draws import generator
from asgml.methods.uniform import Uniform
from asgml.methods.valuation import Valuation
from asgml.model.fusion.cross_attention import CrossAttention
from asgml.model.fusion.film import FiLM
from asgml.model.fusion.gated import Gated
from asgml.model.fusion.mlp import ConcatMLP
from asgml.model.fusion.sum import Sum
from asgml.model.fusion.transformer import LateTransformer
from callbacks.errors import UserError
from suite.runs.identity import run_dir


@dataclass
class Turns(Method):
    """Every encoder moves in one of two steps."""

    def idle(self, t: int, epoch: int) -> set[str]:
        return {("audio", "visual")[t % 2]}


def test_an_idle_encoder_stands_still_with_momentum_decay_and_running_statistics():
    run = train(asgml(), toy_batches(6, toy_spec()), methods={"turns": Turns()}, optimizer=MOMENTUM)
    states = [run.trace.start, *run.trace.states]
    for t, m in enumerate(("audio", "visual") * 3):
        other = "visual" if m == "audio" else "audio"
        assert same(states[t], states[t + 1], f"net.encoders.{m}"), (t, m)
        assert not same(states[t], states[t + 1], f"net.encoders.{other}")
    assert run.actions("audio") == ["hold", "update"] * 3
    assert run.pipeline.vetoed == 0


def test_an_idle_encoder_runs_without_a_graph():
    graphs: list[tuple[bool, bool]] = []

    def more(module):
        graphs.append(tuple(module.step.features[m].requires_grad for m in ("audio", "visual")))

    observe({"turns": Turns()}, steps=4, more=more)
    assert graphs == [(False, True), (True, False)] * 2


def test_a_run_that_ends_before_its_method_begins_says_so(features: dict[int, Path], tmp_path: Path):
    """Three epochs, re-initialisation every 3: bit for bit the joint run; every 2: another one, and no word."""
    ends = {}
    for name, more in (("joint", []), ("relearn", [3]), ("relearn", [2])):
        every = [f"methods.relearn.every={n}" for n in more]
        cfg = config(features[2], tmp_path, f"method={name}", "trainer.max_epochs=3", "callbacks.probe=null", *every)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            parts = fit(cfg)
        told = [str(w.message) for w in caught if "methods.relearn.every" in str(w.message)]
        assert len(told) == (more == [3]), told
        ends[name, *more] = {k: v.clone() for k, v in parts.module.state_dict().items()}
    assert not differences(ends["joint",], ends["relearn", 3])
    assert differences(ends["joint",], ends["relearn", 2])


@pytest.mark.parametrize(("steps", "told"), [(4, 1), (5, 0)])
def test_steps_can_end_a_run_before_its_method_begins(features: dict[int, Path], tmp_path: Path, steps: int, told: int):
    """Four steps are one epoch; the method begins with the second."""
    cfg = config(
        features[2], tmp_path, "method=relearn", "methods.relearn.every=1", "trainer.max_epochs=3",
        f"trainer.max_steps={steps}", "callbacks.probe=null",
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parts = fit(cfg)
    assert parts.trainer.num_training_batches == 4
    assert sum("methods.relearn.every" in str(w.message) for w in caught) == told


def test_idle_and_a_rhythm_exclude_each_other():
    for mode in ("staleness", "frequency", "adaptive"):
        options = {"adaptive": {"signal": "speed"}} if mode == "adaptive" else {}
        with pytest.raises(UserError, match="both decide when an encoder moves"):
            train(asgml(mode, **options), methods={"turns": Turns()})


def test_two_methods_with_the_same_exclusive_hook_are_refused():
    with pytest.raises(UserError, match="split the backward pass"):
        train(methods={"a": MMPareto(), "b": MLA()})
    with pytest.raises(UserError, match="choose the samples"):
        train(methods={"a": Valuation(), "b": Valuation()})


@pytest.mark.parametrize("fusion", [None, Sum, FiLM, Gated, ConcatMLP, LateTransformer, CrossAttention])
def test_a_fused_subset_is_the_fusion_of_a_batch_without_the_others(fusion):
    found: list[Any] = []

    def more(module):
        step = module.step
        size = len(step.y)
        for subset in (["audio"], ["visual", "text"], ["audio", "visual", "text"]):
            masks = {
                m: torch.full((size,), m in subset) if step.present[m] is None else step.present[m] & (m in subset)
                for m in step.modalities
            }
            expected = module.net.fusion(step.features, masks)
            found.append((step.fuse({m: step.features[m] for m in subset}), expected))
        found.append((step.fuse(step.features), step.logits))

    capture = observe_fusion(fusion, more)
    assert len(capture) == 4
    for a, b in found:
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def observe_fusion(fusion: Any, more: Any) -> list[Any]:
    spec = toy_spec(3)
    capture = Capture(more)
    options = {} if fusion is None else {"fusion": fusion}
    train(asgml(), toy_batches(4, spec, partly={1: ["visual"]}), spec=spec, extra=[capture], **options)
    return capture.seen


@dataclass
class Subset(Method):
    replaces_fusion_loss: ClassVar[bool] = True
    frozen: bool = False

    def loss(self, step: Step) -> dict[str, torch.Tensor]:
        logits = step.fuse({"audio": step.features["audio"]}, frozen=self.frozen)
        return {"subset": step.mean(nn.functional.cross_entropy(logits, step.y, reduction="none"), None)}


@pytest.mark.parametrize("frozen", [False, True])
def test_a_subset_loss_reaches_its_encoder_and_the_fusion_only_unless_frozen(frozen):
    run, _ = observe({"subset": Subset(frozen)}, steps=1, optimizer=SGD)
    assert not same(run.trace.start, run.final, "net.encoders.audio.layers.1")
    assert same(run.trace.start, run.final, "net.encoders.visual.layers.1")
    assert same(run.trace.start, run.final, "net.fusion") == frozen


@dataclass
class Own(Method):
    """A module of its own in the features' way, and a fusion of its own."""

    replace: bool = False
    _gate: nn.Linear | None = field(default=None, repr=False)

    def modules(self, dims: dict[str, int], classes: int) -> dict[str, nn.Module]:
        self._gate = nn.Linear(dims["audio"], dims["audio"])
        return {"gate": self._gate} | ({"fusion": Sum(dims, classes)} if self.replace else {})

    def on_features(self, step: Step, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert self._gate is not None
        return {**features, "audio": self._gate(features["audio"])}


def test_own_modules_are_trained_saved_and_seeded():
    runs = [observe({"own": Own()}, steps=2, optimizer=SGD, seed=s)[0] for s in (0, 0, 1)]
    names = ["extensions.own_gate.weight", "extensions.own_gate.bias"]
    assert set(names) <= set(runs[0].final)
    for name in names:
        assert torch.equal(runs[0].trace.start[name], runs[1].trace.start[name])
        assert not torch.equal(runs[0].trace.start[name], runs[2].trace.start[name])
        assert not torch.equal(runs[0].trace.start[name], runs[0].final[name])
    assert runs[0].final[names[0]].dtype == torch.float64
    group = next(g for g in runs[0].trainer.optimizers[0].param_groups if g["name"] == "fusion")
    assert any(p is runs[0].module.extensions["own_gate"].weight for p in group["params"])


def test_a_method_may_bring_its_fusion_but_only_one():
    run = train(methods={"own": Own(True)})
    assert isinstance(run.module.net.fusion, Sum)
    assert not same(run.trace.start, run.final, "net.fusion.linears")
    with pytest.raises(UserError, match="bring their own fusion"):
        train(methods={"a": Own(True), "b": Own(True)})


@dataclass
class Books(Method):
    """Writes down what it is shown."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    hosts: list[float] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)

    def on_epoch(self, epoch: Epoch) -> None:
        self.epochs.append(dict(epoch.metrics))

    def loss(self, step: Step) -> dict[str, torch.Tensor]:
        step.reads["books/labels"] = step.y.double().mean()
        return {}

    def on_commit(self, step: Step) -> None:
        self.hosts.append(step.host["books/labels"])
        self.seen.append(step.host["loss/fusion"])


def test_what_a_method_reads_comes_at_the_commit_and_committed_losses_make_the_epochs_mean():
    spec, books = toy_spec(), Books()
    batches = toy_batches(4, spec, poison=[2])
    run = train(
        asgml(), batches, methods={"joint": Joint(), "books": books}, epochs=2, val=toy_batches(2, spec, seed=1)
    )
    good = [batches[i] for i in (0, 1, 3)]
    assert books.hosts == pytest.approx([float(b["y"].double().mean()) for b in good] * 2)
    assert books.epochs[0] == {}
    assert books.epochs[1]["train/loss/fusion"] == pytest.approx(sum(books.seen[:3]) / 3)
    assert {"val/accuracy", "val/loss/fusion", "val/accuracy/audio", "train/accuracy", "train/accuracy/visual"} <= set(
        books.epochs[1]
    )
    assert run.pipeline.vetoed == 2


def test_reads_are_logged(features: dict[int, Path], tmp_path: Path) -> None:
    cfg = config(features[2], tmp_path, "method=arl", "methods.arl.begins=1", "callbacks.probe=null")
    fit(cfg)
    assert "arl/weight/audio" in (run_dir(cfg) / "history.csv").read_text()


def test_parts_change_nothing_where_nobody_uses_them():
    """The sum of the parts' gradients is the gradient of one pass."""

    @dataclass
    class Parts(Uniform):
        def substeps(self, step: Step, terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return dict(terms)

    plain, split = (observe({"x": x}, 3, steps=4)[0] for x in (Uniform(), Parts()))
    for k, v in plain.final.items():
        torch.testing.assert_close(split.final[k], v, rtol=1e-10, atol=1e-12)


@dataclass
class Wrong(Method):
    def select(self, epoch: Epoch) -> Selection | None:
        return Selection(torch.arange(3))


def test_a_selection_of_another_size_is_refused(features: dict[int, Path], tmp_path: Path) -> None:
    parts = prepare(config(features[2], tmp_path, "method=joint", "callbacks.probe=null"))
    wrong = Wrong()
    stage = parts.pipeline.stage("modulation")
    stage.methods["wrong"] = wrong  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="3 numbers for 32 samples"):
        parts.trainer.fit(parts.module, datamodule=parts.data)


def test_a_method_that_looks_at_splits_needs_a_data_module():
    @dataclass
    class Looks(Method):
        def on_epoch(self, epoch: Epoch) -> None:
            epoch.survey("train")

    with pytest.raises(UserError, match="without a data module"):
        train(methods={"looks": Looks()})


def test_a_survey_is_the_split_in_order_and_leaves_no_trace(features: dict[int, Path], tmp_path: Path) -> None:
    surveys: list[Any] = []

    @dataclass
    class Looks(Method):
        def on_epoch(self, epoch: Epoch) -> None:
            if epoch.number == 1:
                surveys.append(epoch.survey("train"))
                assert epoch.survey("train") is surveys[0]

    ends = []
    for looks in (False, True):
        cfg = config(
            features[2], tmp_path / str(looks), "method=uniform", "callbacks.probe=null", "model.encoder.norm=batch"
        )
        parts = prepare(cfg)
        if looks:
            parts.pipeline.stage("modulation").methods["looks"] = Looks()  # type: ignore[union-attr]
        parts.trainer.fit(parts.module, datamodule=parts.data)
        ends.append({k: v.clone() for k, v in parts.module.state_dict().items()})
    assert not differences(*ends)
    found, table = surveys[0], parts.data.table("train")
    assert found.index.tolist() == list(range(32))
    assert found.y.tolist() == table.y.tolist()
    assert found.present["audio"].tolist() == table.present["audio"].tolist()
    assert bool((found.features["audio"][~found.present["audio"]] == 0).all())


def test_a_generator_draws_by_its_words_alone():
    draws = {words: float(torch.rand((), generator=generator(torch.device("cpu"), 0, *words))) for words in
             ((1, 2), (12,), ("1", 2), (1, 3), ())}  # fmt: skip
    assert draws[(1, 2)] == draws[("1", 2)]
    assert len(set(draws.values())) == 4
