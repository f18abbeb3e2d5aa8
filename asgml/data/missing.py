"""Simulated missing modalities: which samples lose what, fixed over epochs, batches and workers."""

from __future__ import annotations

import dataclasses

import numpy as np

from asgml.data.counter_rng import sample_keys, uniform
from asgml.data.spec import Split, Table
from callbacks.errors import UserError


def check_rates(missing: dict[str, float], modalities: list[str]) -> None:
    """Refuse unknown modalities and impossible rates of `loader.missing`."""
    for modality, rate in missing.items():
        where = f"loader.missing.{modality}"
        if modality not in modalities:
            remedy = f"set +loader.missing.{modalities[0]}={rate} instead"
            raise UserError(where, "no such modality", f"one of {', '.join(modalities)}", remedy)
        if not 0 <= rate < 1:
            remedy = f"set +{where}=0.3, or train without {modality}: method=unimodal methods.unimodal.modality=…"
            raise UserError(where, str(rate), "a rate in [0, 1)", remedy)
        if rate > 0 and len(modalities) == 1:
            raise UserError(where, f"{rate}, with one modality", "two or more modalities", f"leave {where} out")


def drop(table: Table, missing: dict[str, float], seed: int, split: Split) -> Table:
    """Return the table with each modality missing at its rate, drawn per sample from (seed, split, index, modality).

    A sample about to lose everything keeps the present modality whose draw was farthest from its rate, so the rate
    reached is a little below the rate asked for; the data module reports it.
    """
    if not any(missing.values()):
        return table
    keys = sample_keys(seed, np.zeros(len(table), np.uint64), np.arange(len(table)))
    names = list(table.present)
    present = np.stack([table.present[m] for m in names])
    draws = np.stack([uniform(keys, f"missing {split} {m}") for m in names])
    rates = np.array([missing.get(m, 0.0) for m in names])[:, None]
    kept = present & (draws >= rates)
    lost = np.flatnonzero(~kept.any(axis=0) & present.any(axis=0))
    margin = np.where(present, draws / np.maximum(rates, 1e-300), -1.0)
    kept[margin.argmax(axis=0)[lost], lost] = True
    return dataclasses.replace(table, present={m: kept[i] for i, m in enumerate(names)})
