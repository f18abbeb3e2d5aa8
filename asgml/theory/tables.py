"""The tables of the page: closed form against the recursion, and what each mechanism does to two redundant paths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from asgml.methods.ogm_ge import coefficient
from asgml.theory.adam import adam_half_time
from asgml.theory.closed_forms import delay_stretch
from asgml.theory.mechanism import Held, Mechanism
from asgml.theory.paths import redundant
from asgml.theory.saddle import growth_rate
from asgml.theory.simulation import Adam, Case, half_times
from asgml.theory.times import times
from asgml.theory.together import leave_together
from callbacks.stages.delay_stability import stability_limit
from callbacks.stages.staleness import compensation

SCALE, RHOS, LR = 1.6, (0.0, 0.3, 0.6, 0.9), 0.02
RATES, MOMENTA, DELAYS, INTERVALS = (0.002, 0.01, 0.05), (0.0, 0.5, 0.9), (0, 1, 2, 4, 8), (1, 2, 4)
WAYS: dict[str, dict[str, Any]] = {
    "joint": {},
    **{f"k {k}": {"every": k} for k in (2, 3, 4)},
    **{f"tau {tau}": {"tau": tau} for tau in (2, 4, 8)},
}


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose columns but the first are aligned to the right."""
    lines = ["| " + " | ".join(head) + " |", "|:---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def pair(values: Iterable[float]) -> str:
    """Return times of several paths in one cell, in steps."""
    return ", ".join("never" if math.isinf(v) else f"{v:.0f}" for v in values)


def grid() -> str:
    """Return the errors of the closed form over learning rate, delay, interval and momentum."""
    rows, every = [], list[float]()
    for lr, beta in itertools.product(RATES, MOMENTA):
        row = [f"{lr:g}", f"{beta:g}"]
        helds: tuple[Held, Held] = ("path", "encoder")
        for held in helds:
            cases: list[Case] = []
            for tau, k in itertools.product(DELAYS, INTERVALS):
                fast = Mechanism(lr, beta, tau, k, held=held)
                cases.append((redundant((2**0.5, 1.0), start=1e-4), (fast, Mechanism(lr, beta))))
            with np.errstate(all="ignore"):  # beyond the stability limit weights grow without bound, after arriving
                found = half_times(cases, 30000)
            error = np.abs(np.array([times(*case).half for case in cases]) / found - 1)
            row += [f"{100 * np.median(error):.1f}", f"{100 * error.max():.1f}"]
            every += error.ravel().tolist()
        rows.append(row)
    head = ["eta", "momentum", "path: median", "worst, %", "encoder: median", "worst, %"]
    return markdown(head, rows) + f"\n\nWorst of all {len(every)} times: {100 * max(every):.1f} %."


def ways_by_rho(ways: Mapping[str, Mapping[str, Any]], held: Held, gamma: float = 0.0, closed: bool = True) -> str:
    """Return the steps after which (fast, slow) reach half of their weight, by correlation of the inputs."""
    slow = Mechanism(LR, gamma=gamma, held=held)
    rows = []
    for rho in RHOS:
        paths = redundant((SCALE, 1.0), rho)
        cases: list[Case] = [(paths, (Mechanism(LR, gamma=gamma, held=held, **way), slow)) for way in ways.values()]
        found = half_times(cases, 4000)
        expected = [f" ({pair(times(*case).half)})" if closed else "" for case in cases]
        rows.append([f"{rho:g}", *(pair(f) + e for f, e in zip(found, expected, strict=True))])
    return markdown(["rho", *ways], rows)


def together() -> str:
    """Return interval, factor and delay at which both paths leave together."""
    rows = []
    helds: tuple[Held, Held] = ("path", "encoder")
    for held, rho in itertools.product(helds, RHOS):
        paths, slow = redundant((SCALE, 1.0), rho), Mechanism(LR)
        t = leave_together(paths, LR, held)
        k, factor, tau = float(t.interval[0]), float(t.factor[0]), round(float(t.delay[0]))
        cases: list[Case] = [
            (paths, (Mechanism(LR, held=held, factor=factor), slow)),
            (paths, (Mechanism(LR, held=held, tau=tau), slow)),
        ]
        by_factor, by_delay = half_times(cases, 4000)
        stable = "stable" if t.stable[0] else "unstable at the end"
        rows.append(
            [f"{held}, rho {rho:g}", f"{k:.2f}", f"{factor:.3f}: {pair(by_factor)}", f"{tau}: {pair(by_delay)}"]
        )
        rows[-1].append(stable)
    return markdown(["held", "k", "factor: times", "tau: times", "that delay is"], rows)


def stretches() -> str:
    """Return by how much each mechanism lengthens the fast path's time on the saddle, exactly, by load."""
    ogm = float(coefficient(torch.tensor(1.0 + 1e-9, dtype=torch.float64), 0.8))
    ways: dict[str, dict[str, Any]] = {
        "tau 2, no compensation": {"tau": 2},
        "tau 4, no compensation": {"tau": 4},
        "c(2) alone (scale_only)": {"factor": compensation(2, 0.1)},
        "tau 2 with c(2)": {"tau": 2, "factor": compensation(2, 0.1)},
        "k 2, soft 0.1": {"every": 2, "masking": "soft"},
        "k 2, hard": {"every": 2},
        "k 2, lr_matched": {"factor": 0.5},
        "k 4, hard": {"every": 4},
        "OGM-GE at a ratio of 1, alpha 0.8": {"factor": ogm},
    }
    rows = []
    for name, way in ways.items():
        row = [name]
        for held, beta, load in (
            ("path", 0.0, 0.2),
            ("encoder", 0.0, 0.2),
            ("encoder", 0.0, 1.0),
            ("encoder", 0.9, 0.2),
        ):
            # the curvature at the solution is 2 s, and s where the head stands still
            x = load * stability_limit(beta, way.get("tau", 2)) / (2 if held == "path" else 1)
            ratio = growth_rate(Mechanism(x, beta, held=held), 1.0) / growth_rate(  # type: ignore[arg-type]
                Mechanism(x, beta, held=held, **way),  # type: ignore[arg-type]
                1.0,
            )
            row.append(f"{ratio:.3f}")
        rows.append(row)
    return markdown(
        ["mechanism", "path, load 0.2", "encoder, load 0.2", "encoder, load 1", "encoder, momentum 0.9"], rows
    )


def adam() -> str:
    """Return the times under Adam, as simulated and as integrated."""
    ways: dict[str, dict[str, Any]] = {
        "joint": {},
        "k 2, path": {"every": 2},
        "k 2, encoder": {"every": 2, "held": "encoder"},
    }
    ways["tau 8"] = {"tau": 8}
    rows = []
    for lr, scale in itertools.product((0.001, 0.01), (1.6, 4.0)):
        paths, slow = redundant((scale, 1.0)), Mechanism(lr)
        found = half_times([(paths, (Mechanism(lr, **way), slow)) for way in ways.values()], 4000, Adam())
        rows.append([f"{lr:g}, strengths {scale**2:g} and 1", *map(pair, found), f"{adam_half_time(lr):.0f}"])
    return markdown(["eta", *ways, "closed form, joint"], rows)


def deeper() -> str:
    """Return the times of paths of three and four layers, as simulated and in closed form."""
    rows = []
    for layers, start in ((3, 0.04), (3, 0.02), (4, 0.1)):
        paths, slow = redundant((SCALE, 1.0), 0.3, start, layers), Mechanism(0.01)
        cases: list[Case] = [(paths, (Mechanism(0.01, **way), slow)) for way in WAYS.values()]
        found = half_times(cases, 20000)
        cells = [f"{pair(f)} ({pair(times(*case).half)})" for f, case in zip(found, cases, strict=True)]
        rows.append([f"{layers} layers, start {start:g}", *cells])
    return markdown(["paths", *WAYS], rows)


def three() -> str:
    """Return the times of three modalities, as simulated and in closed form."""
    slow = Mechanism(0.01)
    ways = {"joint": (1, 1, 1), "k 3 on the first": (3, 1, 1), "k 4 and 2": (4, 2, 1)}
    rows = []
    for rho in RHOS:
        paths = redundant((2.0, 1.4, 1.0), rho)
        cases: list[Case] = [
            (paths, [slow if k == 1 else Mechanism(0.01, every=k) for k in ks]) for ks in ways.values()
        ]
        found = half_times(cases, 9000)
        rows.append(
            [
                f"{rho:g}",
                *(f"{pair(f)} ({pair(times(*c).half)})" for f, c in zip(found, cases, strict=True)),
            ]
        )
    return markdown(["rho", *ways], rows)


def delays() -> str:
    """Return the stretch of a delay: simulated, exact, and by Lambert's W."""
    rows = []
    for lr, tau in itertools.product((0.002, 0.05), (2, 4, 8)):
        paths, plain = redundant((2**0.5, 1.0), start=1e-4), Mechanism(lr)
        held = Mechanism(lr, tau=tau)
        found = half_times([(paths, (held, plain)), (paths, (plain, plain))], 9000)
        exact = growth_rate(plain, 2.0) / growth_rate(held, 2.0)
        rows.append(
            [
                f"{lr:g}",
                f"{tau}",
                f"{found[0, 0] / found[1, 0]:.3f}",
                f"{exact:.3f}",
                f"{delay_stretch(2 * lr, tau):.3f}",
            ]
        )
    return markdown(["eta", "tau", "simulated", "exact root", "x / W(x)"], rows)
