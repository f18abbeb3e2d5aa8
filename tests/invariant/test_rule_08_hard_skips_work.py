"""Specification A2.8: where it is not due, a `hard` encoder runs without a graph, as if its gradient were dropped."""

from __future__ import annotations

import pytest
from toys import OPTIMIZERS, Capture, asgml, differences, toy_batches, toy_spec, train


class Watch:
    """Notes per step whether the encoder's feature has a graph, and whether gradients flowed through the encoder."""

    def __init__(self, modality: str = "audio"):
        self.modality, self.graph, self.flowed = modality, [], []

    def install(self, module, pipeline) -> None:
        plain = module.net.encode

        def encode(m, x, *lengths):
            out = plain(m, x, *lengths)
            if m == self.modality and module.training:
                step = len(self.graph)
                self.graph.append(out.requires_grad)
                self.flowed.append(False)
                if out.requires_grad:
                    out.register_hook(lambda _: self.flowed.__setitem__(step, True))
            return out

        module.net.encode = encode


@pytest.mark.parametrize("k", [2, 4])
def test_an_idle_encoder_builds_no_graph(k):
    watch, capture = Watch(), Capture()
    run = train(asgml("frequency", k=k, masking="hard"), before=watch.install, extra=[capture])
    due = [action == "update" for action in run.actions("audio")]
    assert due == [t % k == 0 for t in range(8)]
    assert watch.graph == watch.flowed == due
    for t, step in enumerate(capture.gradients):
        assert all((g is not None) == due[t] for g in step["audio"])
        assert all(g is not None for group in ("visual", "fusion") for g in step[group])


@pytest.mark.parametrize("masking", ["soft", "accumulate", "fusion_preserving"])
def test_the_other_maskings_need_the_graph_on_every_step(masking):
    watch = Watch()
    train(asgml("frequency", k=2, masking=masking), before=watch.install)
    assert watch.graph == watch.flowed == [True] * 8


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_skipping_the_work_is_masking_after_a_full_backward_bit_by_bit(modalities, optimizer):
    spec = toy_spec(modalities)
    batches = toy_batches(8, spec, partly={2: ["audio"], 5: ["audio"]})
    config = asgml("frequency", k=2, masking="hard", delayed="all" if modalities == 2 else "dominant")

    def keep_the_graph(module, pipeline) -> None:
        plan = module.rhythm.mask.before_forward

        def before_forward(ctx) -> None:
            plan(ctx)
            for group in ctx.plan.groups.values():
                group.graph = True

        module.rhythm.mask.before_forward = before_forward

    watch = Watch()
    skipped = train(config, batches, spec=spec, optimizer=optimizer)
    masked = train(
        config,
        batches,
        spec=spec,
        optimizer=optimizer,
        before=lambda module, pipeline: (keep_the_graph(module, pipeline), watch.install(module, pipeline)),
    )
    assert watch.graph == [True] * 8  # the comparison really is one with a full backward
    assert not differences(skipped.trace.states, masked.trace.states)
    assert skipped.timeline == masked.timeline


def test_adaptive_frequency_skips_the_work_too():
    """The schedule asks for about one update in three: the encoder differentiates on its updates and nowhere else."""
    watch = Watch()
    adaptive = {"kind": "frequency", "signal": "speed", "tau_base": 2, "update_every": 2, "window": 2}
    run = train(asgml("adaptive", masking="hard", adaptive=adaptive), toy_batches(16, toy_spec()), before=watch.install)
    due = [action == "update" for action in run.actions("audio")]
    assert watch.graph == watch.flowed == due
    assert 2 < sum(due) < 12
    assert all("update" in {a, v} for a, v in zip(run.actions("audio"), run.actions("visual"), strict=True))
