"""From the `asgml` node to the stages of its mode."""

from __future__ import annotations

from typing import Literal

from asgml.rhythm.config import Asgml
from asgml.rhythm.record import ModalityRecord
from asgml.rhythm.stage import Rhythm, RhythmFactors
from asgml.rhythm.yoked import Treated, YokedRhythm
from callbacks.errors import UserError
from callbacks.stages.probe import ProbeEMA
from callbacks.step.stage import Stage


def rhythm_stages(
    config: Asgml,
    modalities: list[str],
    dominant: str | None,
    probe: ProbeEMA | None,
    seed: int,
    treated: Treated | None = None,
) -> tuple[Rhythm, list[Stage]]:
    """Build the deciding stage, and all stages of a mode in the order of their phases.

    Args:
        config: the `asgml` node.
        modalities: the encoders that are trained, in order.
        dominant: the modality that `delayed: dominant` means; None leaves it to the probes.
        probe: the probes, where a decision reads them.
        seed: the seed of `control: random_skip` and `control: yoked_skip`.
        treated: what the treated run of a yoked control did.

    Raises:
        UserError: delays or intervals that mean nothing for these modalities.
    """
    adaptive = config.adaptive if config.mode == "adaptive" else None
    kind = config.kind
    if adaptive is not None:
        config.known(list(adaptive.tops), modalities, "asgml.adaptive.ceilings")
    if config.control == "yoked_swap" and len(modalities) < 2:
        found, expected = f"'yoked_swap' with {modalities} alone", "two modalities or more to swap"
        raise UserError("asgml.control", found, expected, "set asgml.control=yoked_lr")
    delay, interval = dict.fromkeys(modalities, 0), dict.fromkeys(modalities, 1)
    buffer = mask = None
    later: int | None = None  # the delay that begins when the probes have found the dominant modality
    if config.waits(modalities, dominant):
        later = int(config.tau if kind == "staleness" else config.k) - (kind == "frequency")  # type: ignore[arg-type]
    if kind == "staleness":
        delay = config.taus(modalities, dominant) if adaptive is None else dict.fromkeys(modalities, adaptive.tau_min)
        if config.delays:
            buffer = config.parts.buffer(
                delay if adaptive or later else {m: tau for m, tau in delay.items() if tau > 0},
                warmup=config.warmup,
                compensation=config.compensation,
                lambda_comp=config.lambda_comp,
                mu=config.mu,
                through=config.through,
                max_delay=later if adaptive is None else adaptive.largest(len(modalities)),
                dtype=config.buffer_dtype,
                device=config.buffer_device,
            )
    elif kind == "frequency":
        interval = (
            config.ks(modalities, dominant) if adaptive is None else dict.fromkeys(modalities, adaptive.tau_min + 1)
        )
        if config.skips:
            rule: Literal["fixed", "elapsed", "random"] = "fixed" if adaptive is None else "elapsed"
            mask = config.parts.mask(
                interval,
                masking=config.masking,
                soft_scale=config.soft_scale,
                phases=config.phases,
                rule="random" if config.control == "random_skip" else rule,
                seed=seed,
            )
    if treated is not None:
        rhythm: Rhythm = YokedRhythm(config, delay, interval, treated, buffer, mask, probe, seed)
    else:
        rhythm = Rhythm(config, delay, interval, buffer, mask, probe, later)
    record = ModalityRecord(rhythm, "k" if kind == "frequency" else "tau")
    return rhythm, [stage for stage in (rhythm, buffer, mask, RhythmFactors(rhythm), record) if stage is not None]
