"""Specification A2.4: a stamp is applied at most once, applied stamps only increase, and counters say what happened."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import lightning as L
import pytest
import torch
from foreign_toys import Quadratic, Textbook, quadratic_batches, quadratic_form
from toys import MOMENTUM, asgml, fit, toy_batches, toy_spec, train

from callbacks.stages.gate import StepGate
from callbacks.stages.stale_gradients import Stamps
from callbacks.stages.staleness import StalenessBuffer
from callbacks.step.pipeline import StepPipeline


@dataclass
class Literal:
    """Follows the rule as its sentence reads, with lists that only grow."""

    capacity: int  # the buffer reaches back to t - capacity + 1
    warmup: str
    pushed: list[int] = field(default_factory=list)
    applied: list[int] = field(default_factory=list)
    held: int = 0
    missing: int = 0
    steps: int = 0

    def step(self, tau: int, present: bool) -> tuple[str, int]:
        """Record the next step, and return its (action, stamp)."""
        t = self.steps
        self.steps += 1
        if not present:
            self.missing += 1
            return "missing", -1
        self.pushed.append(t)
        wanted = t - tau
        if wanted < 0 and self.warmup == "fresh":
            wanted = t
        if wanted not in self.pushed or any(wanted <= s for s in self.applied):
            self.held += 1
            return "hold", -1
        self.applied.append(wanted)
        return "update", wanted

    @property
    def dropped(self) -> int:
        """Return the number of stamps that will never be applied: overtaken, or no longer in the buffer."""
        oldest = self.steps - self.capacity
        newest = max(self.applied, default=-1)
        return sum(s not in self.applied and (s < newest or s < oldest) for s in self.pushed)


def walk(draw: random.Random, steps: int, largest: int) -> list[int]:
    """Return a delay per step that stays, drifts or jumps."""
    tau, out = draw.randint(0, largest), []
    for _ in range(steps):
        move = draw.random()
        if move < 0.3:
            tau = min(largest, max(0, tau + draw.choice([-1, 1])))
        elif move < 0.4:
            tau = draw.randint(0, largest)
        out.append(tau)
    return out


@pytest.mark.parametrize("warmup", ["skip", "fresh"])
@pytest.mark.parametrize("gaps", [0.0, 0.3], ids=["complete", "missing"])
def test_random_delays_follow_the_literal_rule(warmup, gaps):
    seen = {"update": 0, "hold": 0, "missing": 0}
    dropped = 0
    for seed in range(150):
        draw = random.Random(seed)
        largest = draw.randint(0, 5)
        literal, stamps = Literal(largest + 1, warmup), Stamps(largest + 1)
        for t, tau in enumerate(walk(draw, 60, largest)):
            present = draw.random() >= gaps
            due = stamps.due(t, tau, present, warmup)
            if draw.random() < 0.2:  # this attempt is vetoed: asked, but not committed
                due = stamps.due(t, tau, present, warmup)
            stamps.commit(t, due, present)
            action, stamp = literal.step(tau, present)
            assert (due.action, due.stamp) == (action, stamp), (seed, t)
            assert (stamps.applied, stamps.held, stamps.missing, stamps.dropped) == (
                len(literal.applied),
                literal.held,
                literal.missing,
                literal.dropped,
            ), (seed, t)
            seen[action] += 1
        assert len(set(literal.applied)) == len(literal.applied)
        assert literal.applied == sorted(literal.applied)
        assert stamps.applied + stamps.held + stamps.missing == 60
        dropped += stamps.dropped
    assert dropped > 100
    assert all(n > 300 for action, n in seen.items() if action != "missing" or gaps)


class Steer(L.Callback):
    """Sets the delay of group a before every batch."""

    def __init__(self, buffer: StalenessBuffer, taus: list[int]):
        self.buffer, self.taus = buffer, taus

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.buffer.set_delay("a", self.taus[batch_idx])


@pytest.mark.parametrize("warmup", ["skip", "fresh"])
@pytest.mark.parametrize("seed", range(4))
def test_a_delay_that_walks_applies_the_right_gradients(seed, warmup):
    """Momentum SGD on a quadratic, tau of group a at random: the weights of the literal recursion, to 1e-12."""
    steps, largest = 40, 4
    taus = walk(random.Random(seed), steps, largest)
    buffer = StalenessBuffer({"a": taus[0]}, warmup=warmup, max_delay=largest, lambda_comp=0.1)
    pipeline = StepPipeline([buffer, StepGate()], announce=False)
    trace = fit(Quadratic(MOMENTUM), quadratic_batches(steps), [Steer(buffer, taus), pipeline])

    form, literal = quadratic_form(), Literal(largest + 1, warmup)
    theta = torch.tensor([1.0, -2.0, 0.5, -1.0, 1.5], dtype=torch.float64)
    textbooks, gradients = {"a": Textbook("momentum"), "b": Textbook("momentum")}, []
    for t, b in enumerate(quadratic_batches(steps)):
        gradients.append(form @ theta - b)
        action, stamp = literal.step(taus[t], True)
        first, second = theta[:3], textbooks["b"].step(theta[3:], gradients[t][3:])
        if action == "update":
            first = textbooks["a"].step(first, gradients[stamp][:3] / (1 + 0.1 * (t - stamp)))
        theta = torch.cat([first, second])
        found = torch.cat([trace.states[t]["a"], trace.states[t]["b"]])
        assert (theta - found).abs().max() <= 1e-12, f"step {t}"
    counters = pipeline.counters()
    assert counters["applied"] == {"a": len(literal.applied)}
    assert counters["held"] == {"a": literal.held}
    assert counters["dropped"] == {"a": literal.dropped}
    assert 0 < literal.held < steps - len(literal.applied) + 1


def test_the_timeline_of_a_run_never_applies_a_stamp_twice():
    """Adaptive staleness with a modality that comes and goes."""
    spec = toy_spec(3)
    gone = {i: ["visual"] for i in (4, 5, 11, 17)}
    config = asgml(
        "adaptive", adaptive={"signal": "speed", "tau_base": 2, "update_every": 2, "window": 2, "tau_max": 4}
    )
    run = train(config, toy_batches(30, spec, missing=gone), spec=spec)
    counters = run.pipeline.counters()
    assert sum(counters["schedule_changes"].values()) > 5
    for m in spec.modalities:
        stamps = [t - age for t, name, action, age, _ in run.timeline if name == m and action == "update"]
        assert stamps == sorted(set(stamps))
        assert len(stamps) == counters["applied"][m]
        assert counters["applied"][m] + counters["held"][m] + counters["missing"][m] == 30
    assert counters["missing"] == {"audio": 0, "visual": 4, "text": 0}


def test_a_delay_beyond_the_buffer_is_refused():
    buffer = StalenessBuffer({"a": 2})
    with pytest.raises(ValueError, match=r"outside 0\.\.2"):
        buffer.set_delay("a", 3)
