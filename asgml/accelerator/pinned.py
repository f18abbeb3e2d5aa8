"""Stale gradients in pinned memory of the host: the same run bit by bit, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from asgml.accelerator.clock import Clock
from asgml.accelerator.runs import CREMAD, VECTORS, trained, weights
from suite.accelerator.section import Place, Row, Section, check, not_done

MODE = "staleness, tau = 2"
CPU = {"asgml.buffer_device": "cpu"}


def pinned(place: Place) -> Iterator[Row]:
    """Yield whether buffers on the CPU change a bit, whether they are pinned, and the time of a step with them."""
    clips = VECTORS.tiny() if place.dry else VECTORS
    twice = [trained(place, clips, MODE, 20) for _ in range(2)]
    there = trained(place, clips, MODE, 20, CPU)
    if torch.equal(weights(twice[0]), weights(twice[1])):
        same = torch.equal(weights(twice[0]), weights(there))
        yield check("weights after 20 steps", "the same bits" if same else "others", "the same bits", same)
    else:
        yield not_done("weights after 20 steps", "two equal runs differ on this device already")
    if place.cuda:
        stage: Any = there.pipeline.stage("staleness")
        flat: torch.Tensor = next(iter(stage._rings.values())).flat
        found = f"{flat.device.type}, {'pinned' if flat.is_pinned() else 'pageable'}"
        yield check("storage", found, "cpu, pinned", found == "cpu, pinned")
    else:
        yield not_done("storage", "memory is pinned for CUDA only")
    clips, warm, steps = (CREMAD.tiny(), 1, 3) if place.dry else (CREMAD, 6, 36)
    clocks = [Clock(place, warm) for _ in range(2)]
    for clock, more in zip(clocks, ({}, CPU), strict=True):
        trained(place, clips, MODE, steps, more, [clock])
    device, host = clocks
    ratio = host.ms / device.ms
    yield Row("time of a step, two ResNet18", f"{host.ms:.2f} ms, {ratio:.3f} of {device.ms:.2f} ms on the device")
    yield Row("memory saved on the device", f"{device.peak_mb - host.peak_mb:.0f} MiB")


PINNED = Section("pinned", "Stale gradients in pinned memory", 45, pinned)
