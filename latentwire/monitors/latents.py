"""LatentMonitor: what latents look like where a model reads them: their size, their directions, the nearest tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from callbacks.ranges import Count
from callbacks.run.spectrum import entropy_rank, singular_values
from latentwire.data.base import spread
from latentwire.ladder.ranks import slot_rank
from latentwire.lm import vocabulary
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.monitors import records
from latentwire.monitors.base import Monitor
from latentwire.train.module import WireModule
from latentwire.train.validation import Scores

MOST_ROWS = 1024  # latents behind a spectrum
SPACES = (("embeddings", "embeddings", 0), ("values", "values", 0), ("head", "reads", -1))  # part and layer of a prefix
DIGITS = 4  # of a cosine


class LatentMonitor(Monitor):
    """Records latents as they are sent and as every model reads them, after validations.

    - *Size*: the RMS of every slot over texts, of the latents and of what stands at their places in a model
      (embeddings; keys and values by layer; what layers add to their stream), beside the RMS that text has there, as it
      was measured before training.
    - *Spectrum*: the singular values of all latents (rows, not centred) and their effective rank (Roy and Vetterli,
      2007): 1 where all latents are one vector. Centred over texts it is `collapse/effective_rank`, and within a
      message, averaged over messages, `latents/slot_rank`: 0 where all slots say the same.
    - *Nearest tokens* of every latent of a few texts, by cosine with the model's embedding table. Latents that are keys
      and values have no embedding: their values in the first layer are compared with those that each token has there.
      What layers add is compared with the rows of the language-model head, behind the last layer that reads.

    Logged are `latents/effective_rank`, `latents/slot_rank`, and by model (`…/<model>` with several) the mean over
    slots of RMS over that of text, `latents/rms_over_text/<part>`, the mean cosine of the nearest token,
    `latents/nearest_cosine`, and the share of different tokens among these, `latents/nearest_distinct`. All else is in
    `inside/latents-<step>.json`; the report draws it.

    Example::

        callbacks:
          latents: {_target_: latentwire.monitors.LatentMonitor, every: 1, texts: 32, samples: 4}

    Limits: a record costs one pass of the latents of `texts` through the injectors and one product of the decoded
    latents with the vocabulary, 8192 tokens at a time; 24 ms of one core, 0.2 % of an epoch of
    `experiment=pocket_smoke` (11.7 s; 468 tokens). A spectrum is that of 1024 latents at most. A nearest token is a
    name for a direction, no reading: trained latents are far from all tokens, which the cosine says.

    Args:
        every: the number of validations from one record to the next.
        texts: the number of validation texts whose latents are measured.
        samples: the number of them whose latents are decoded to tokens.
        nearest: the number of tokens that are recorded for a latent.
    """

    kind = records.LATENTS

    def __init__(self, every: Count = 1, texts: Count = 32, samples: Count = 4, nearest: Count = 3):
        super().__init__(every)
        self.texts, self.samples, self.nearest = texts, samples, nearest

    @torch.no_grad()
    def record(self, module: WireModule, scores: Scores) -> tuple[dict[str, float], records.Record]:
        wire = module.wire
        chosen = spread(len(scores.texts), self.texts)
        z = torch.cat(scores.latents).unflatten(1, (wire.slots, -1))[chosen]
        few = spread(len(chosen), self.samples)
        values = singular_values(z[: max(1, MOST_ROWS // wire.slots)].flatten(0, 1))
        metrics = {"effective_rank": entropy_rank(values), "slot_rank": slot_rank(z)}
        found: dict[str, Any] = {
            "latents": {"rms": rms(z)[0].tolist(), "spectrum": values.tolist(), **metrics},
            "samples": [scores.texts[chosen[i]] for i in few],
            "models": {},
        }
        for name, lm in module.lms.items():
            prefix = wire.prefix(z.to(wire.device), name)
            sizes = compared(prefix, wire.injectors[name].text_rms())
            decoded = decode(lm, prefix.select(few), self.nearest)
            found["models"][name] = {"sizes": sizes, **decoded}
            of = f"/{name}" if len(module.lms) > 1 else ""
            metrics |= {f"rms_over_text/{part}{of}": mean for part, mean in over_text(sizes).items()}
            first = [slot[0] for sample in decoded["nearest"] for slot in sample]
            metrics[f"nearest_cosine{of}"] = sum(cosine for _, cosine in first) / len(first)
            metrics[f"nearest_distinct{of}"] = len({token for token, _ in first}) / len(first)
        return metrics, found


def rms(*layers: Tensor) -> Tensor:
    """Return the RMS of every slot over texts and width, by layer, (layers, M); each layer is (B, M, width)."""
    return torch.stack([x.float().pow(2).mean((0, 2)).sqrt().cpu() for x in layers])


def compared(prefix: Prefix, text: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Return `rms` (layers, M) of every part of a prefix as lists, beside that of `text` (layers,), None where unknown.

    `ratio` (M,) is the RMS over layers of the one over the other, None where text was not measured.
    """
    found: dict[str, dict[str, Any]] = {}
    for part, layers in prefix.parts().items():
        own, real = rms(*layers), text.get(part)
        ratio = None if real is None else (own / real.float().cpu()[:, None]).pow(2).mean(0).sqrt().tolist()
        found[part] = {"rms": own.tolist(), "text": None if real is None else real.tolist(), "ratio": ratio}
    return found


def over_text(sizes: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the mean over slots of the ratio to text, for each part that has one."""
    return {part: sum(s["ratio"]) / len(s["ratio"]) for part, s in sizes.items() if s["ratio"]}


def decode(lm: FrozenLM, prefix: Prefix, k: int) -> dict[str, Any]:
    """Return the k nearest tokens of every latent of B messages, with their cosines: `nearest` [B][M][k], best first.

    `space` says what was compared: `embeddings`, the `values` of the first layer, or the language-model `head`.
    """
    parts = prefix.parts()
    space, part, layer = next(s for s in SPACES if s[1] in parts)
    at = parts[part][layer]
    ids, cosines = vocabulary.nearest(at.flatten(0, 1), vocabulary.rows(lm, space), k)
    named = [
        [(vocabulary.piece(lm, token), round(cosine, DIGITS)) for token, cosine in zip(*both, strict=True)]
        for both in zip(ids.tolist(), cosines.tolist(), strict=True)
    ]
    slots = at.shape[1]
    return {"space": space, "nearest": [named[i : i + slots] for i in range(0, len(named), slots)]}
