"""`torch.compile` of encoders, fusion and heads: the same training in every mode, and what it gains."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch._dynamo.utils import counters

from asgml.accelerator.clock import Clock
from asgml.accelerator.runs import CREMAD, MODES, VECTORS, start, trained, weights
from asgml.build import Parts
from suite.accelerator.section import Place, Row, Section, check

STEPS, TOLERANCE = 12, 0.01  # ‖compiled - eager‖ over ‖eager - start‖: other kernels round otherwise


def compile_net(parts: Parts, backend: str) -> None:
    """Compile a network's parts in place; names, weights and hooks stay."""
    net = parts.module.net
    for module in (*net.encoders.values(), net.fusion, *net.heads.values()):
        module.compile(backend=backend)


def compiled(place: Place) -> Iterator[Row]:
    """Yield, per mode, how far the compiled run's weights are from the eager one's; then the time of a joint step."""
    backend = "eager" if place.dry else "inductor"  # a rehearsal traces, and leaves out the compiler
    clips = VECTORS.tiny() if place.dry else VECTORS
    for mode in list(MODES)[: 3 if place.dry else None]:
        began: list[torch.Tensor] = []
        eager = weights(trained(place, clips, mode, STEPS, before=lambda parts, b=began: b.append(start(parts))))
        torch.compiler.reset()
        counters.clear()
        made = weights(trained(place, clips, mode, STEPS, before=lambda parts: compile_net(parts, backend)))
        distance = float((made - eager).norm() / (eager - began[0]).norm())
        graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
        told = f"{distance:.2g}, {graphs} graphs, {breaks} graph breaks"
        yield check(f"{mode}: distance of the weights", told, f"at most {TOLERANCE:g}", distance <= TOLERANCE)
    if place.dry:
        return
    clocks = [Clock(place, 10) for _ in range(2)]
    trained(place, CREMAD, "joint", 40, callbacks=[clocks[0]])
    torch.compiler.reset()
    trained(place, CREMAD, "joint", 40, callbacks=[clocks[1]], before=lambda parts: compile_net(parts, backend))
    eager_ms, ms = (clock.ms for clock in clocks)
    yield Row("time of a joint step, two ResNet18", f"{ms:.2f} ms, {ms / eager_ms:.3f} of {eager_ms:.2f} ms eager")


COMPILED = Section("compiled", "torch.compile of encoders, fusion and heads", 140, compiled)
