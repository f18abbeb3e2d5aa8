"""BranchShare: what the branches of a fusion leave to the encoders, tracked during training and changing nothing."""

from __future__ import annotations

import warnings
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from foreign_toys import Foreign, foreign_batches
from test_diagnostics import Keep
from toys import Capture, asgml, differences, fit, toy_batches, toy_spec, train

from asgml.model.fusion.cross_attention import CrossAttention
from asgml.model.fusion.film import FiLM
from asgml.model.fusion.gated import Gated
from callbacks.errors import UserError
from callbacks.stages.branch import Branch, branches_of, switched
from callbacks.stages.branch_share import BranchShare
from callbacks.stages.gate import StepGate
from callbacks.step.pipeline import StepPipeline

FUSIONS = {
    "cross_attention": partial(CrossAttention, dim=6, heads=2, tokens=2),
    "film": partial(FiLM, dim=6, modulator="visual"),
    "gated": partial(Gated, dim=6),
}


def run(fusion: str, stage: BranchShare | None, modalities: int = 3, more: Any = None, count: int = 4, **options: Any):
    spec = toy_spec(modalities)
    batches = toy_batches(count, spec, partly={1: ["visual"], 2: ["audio"]}, missing={3: ["visual"]})
    extra = [s for s in (stage, Capture(more) if more else None) if s is not None]
    return train(asgml(), batches, spec=spec, fusion=FUSIONS[fusion], extra=extra, **options)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_share_is_the_gradient_with_the_branches_over_that_without_them(fusion):
    """Against the same batches in the same weights, by plain backward passes."""
    expected: list[dict[str, float]] = []

    def more(module):
        net, batch, norms = module.net, module._batch, {}
        for mode in ("on", "off"):
            with switched(net, mode):
                net.zero_grad(set_to_none=True)
                features = {m: net.encode(m, batch["x"][m]) for m in net.modalities}
                loss = torch.nn.functional.cross_entropy(net.fusion(features), batch["y"])
                grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
                by_id = {id(p): g for p, g in zip(net.parameters(), grads, strict=True)}
            for m in net.modalities:
                own = [g for p in net.encoders[m].parameters() if (g := by_id[id(p)]) is not None]
                norms[m, mode] = sum(g.square().sum().item() for g in own) ** 0.5
        expected.append({m: norms[m, "on"] / norms[m, "off"] for m in net.modalities if norms[m, "off"] > 0})

    stage = BranchShare(rows=99)
    spec = toy_spec(3)
    train(asgml(), toy_batches(1, spec), spec=spec, fusion=FUSIONS[fusion], extra=[stage, Capture(more)])
    (found,) = expected
    assert {m: v[0] for m, v in stage.shares.items()} == pytest.approx(found, rel=1e-9)
    assert set(found) == {"audio", "text"} | ({"visual"} if fusion != "film" else set())  # which only modulates
    assert all(value != 1.0 for value in found.values())


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("modalities", [2, 3])
def test_measuring_changes_nothing_in_the_run(fusion, modalities):
    """Weights and running statistics are bit-identical, with missing modalities and batch normalisation."""
    stage = BranchShare(every=1)
    with_it, without = run(fusion, stage, modalities), run(fusion, None, modalities)
    assert not differences(with_it.trace.states, without.trace.states)
    assert len(stage.shares["audio"]) == 4
    assert not any(b.watched for b in branches_of(with_it.module))


def test_shares_are_logged_and_a_norm_matched_branch_has_its_weight_as_norm_ratio():
    logger, stage = Keep(), BranchShare(every=4)
    module = branched(scale=0.1)
    fit(module, foreign_batches(12), [StepPipeline([StepGate(), stage], log_every=50, announce=False)], logger=logger)
    assert list(logger.series("share/a")) == [*range(1, 11)]  # the first ten steps, logged as committed ones
    assert logger.series("share/norm_ratio")[3] == pytest.approx(0.1, rel=1e-6)
    assert set(stage.shares) == {"a", "head"}  # group b makes the branch
    assert stage.counters()["branch_share"]["share"]["a"] == pytest.approx(sum(stage.shares["a"]) / 10)


class Branched(Foreign):
    """Adds tower b, times a factor, to tower a in front of a normalisation."""

    def __init__(self, scale: float, small: float = 1.0):
        super().__init__(automatic=True)
        self.scale, self.small = scale, small
        self.b.branch = Branch()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.head = torch.nn.Linear(5, 3).double()

    def loss(self, batch):
        x, y = batch
        stream, added = self.a(x), self.b[2](self.b[1](self.b[0](x)))
        added = self.scale * added * stream.norm(dim=-1, keepdim=True) / added.norm(dim=-1, keepdim=True).clamp(1e-9)
        full = stream + added
        full = self.b.branch(full, stream) if self.b.branch.watched else full
        logits = self.head(torch.nn.functional.layer_norm(full, (5,)))
        return self.small * torch.nn.functional.cross_entropy(logits, y)

    def share_loss(self, batch, rows):
        return self.loss((batch[0][:rows], batch[1][:rows]))


def branched(scale: float, **options: float) -> Branched:
    return Branched(scale, **options)


def warned(module: Branched, stage: BranchShare, count: int = 12) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(module, foreign_batches(count), [StepPipeline([StepGate(), stage], announce=False)])
    return [str(w.message) for w in caught if "BranchShare" in str(w.message)]


def test_a_loud_branch_in_front_of_a_normalisation_is_named_once_and_a_quiet_one_is_not(capsys):
    loud, quiet = BranchShare(every=1, groups=["a"]), BranchShare(every=1, groups=["a"])
    (message,) = warned(branched(20.0), loud)
    assert "at step 9 the branch, at 20 times the norm of its stream, leaves a only" in message
    assert warned(branched(0.02), quiet) == []
    assert sum(loud.shares["a"]) / 10 < 0.2
    assert sum(quiet.shares["a"]) / 10 > 0.85
    assert capsys.readouterr().out.count("mean of 10 batches") == 2


def test_a_modality_that_some_batches_lack_is_printed_with_the_share_of_the_others(capsys):
    stage = BranchShare()
    spec = toy_spec(2)
    batches = toy_batches(10, spec, missing={3: ["visual"]}, partly={5: ["audio"]})
    train(asgml(), batches, spec=spec, fusion=FUSIONS["cross_attention"], extra=[stage])
    assert "mean of 10 batches: audio 0." in capsys.readouterr().out.replace("audio 1.", "audio 0.")
    assert len(stage.shares["visual"]) == 9
    assert list(stage.ratios) == pytest.approx([0.1] * len(stage.ratios), rel=1e-9)  # where there is something to read


def test_gradients_that_vanish_are_named_and_the_others_have_a_word():
    stage = BranchShare(every=1)
    assert any("the gradient of a vanishes: mean norm" in m for m in warned(branched(0.1, small=1e-5), stage))
    assert stage.counters()["branch_share"]["gradient"]["a"]["verdict"] == "vanishing"
    words = [stage.verdict(x) for x in (5e-4, 0.02, 0.05, 0.15, 0.2)]
    assert words == ["vanishing", "low", "healthy", "healthy", "high"]


def test_the_state_goes_on_where_it_was_saved():
    whole, first = BranchShare(every=1), BranchShare(every=1)
    warned(branched(0.1), whole, 8)
    warned(branched(0.1), first, 8)
    second = BranchShare(every=1)
    second.load_state(deepcopy(first.state()))
    assert not differences(second.state(), whole.state())
    assert second.counters() == whole.counters()


def test_what_it_cannot_measure_is_refused():
    with pytest.raises(UserError, match="fusion=cross_attention"):
        train(extra=[BranchShare()])  # concat
    with pytest.raises(UserError, match="share_loss"):
        fit(WithoutLoss(), foreign_batches(1), [BranchShare()])
    with pytest.raises(UserError, match=r"groups: \[audio\]"):
        run("gated", BranchShare(groups=["image"]))
    with pytest.raises(UserError, match="1 or more"):
        BranchShare(every=0)


class WithoutLoss(Foreign):
    """Has a branch, and no loss to measure it by."""

    def __init__(self) -> None:
        super().__init__(automatic=True)
        self.b.branch = Branch()

    def loss(self, batch):
        x, y = batch
        b = self.b[2](self.b[1](self.b[0](x)))
        return torch.nn.functional.cross_entropy(self.head(torch.cat([self.a(x), b], 1)), y)
