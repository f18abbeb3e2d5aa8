"""What readers answer with the text itself, on the questions that a run validates on."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from omegaconf import DictConfig

from callbacks.errors import UserError
from latentwire.build import Inputs, held_out, validation_length
from latentwire.encoders.base import Encoder
from latentwire.examples import context_ids, is_continuation
from latentwire.lm.layout import Prefix
from latentwire.train.validation import Scores, score
from suite.loader import EpochBatches


@torch.no_grad()
def own_text(cfg: DictConfig, inputs: Inputs, encoder: Encoder) -> dict[str, float]:
    """Return the F1 of every reader on the validated questions with the text in front of it, its adapters off.

    Args:
        cfg: the run's configuration.
        inputs: its models and data.
        encoder: its encoder, whose tokens a batch holds.

    Raises:
        UserError: passages that are to be continued, where nothing is right or wrong.
    """
    contexts, scores = held_out(cfg, inputs, encoder, whole_prompt=False), Scores()
    with ExitStack() as off:
        for lm in inputs.lms.values():
            off.enter_context(lm.adapters_off())
        for items in EpochBatches(len(contexts), int(cfg.loader.eval_batch_size), 0, train=False):
            batch = contexts.__getitems__(items)
            if is_continuation(batch.asked[0][1]):
                raise UserError("corpus", "texts to continue", "questions about texts", "give a run on corpus=qa")
            prefixes = {
                name: Prefix(text_ids=[context_ids(lm, p, p.questions[0]) for p in batch.passages])
                for name, lm in inputs.lms.items()
            }
            score(scores, batch, prefixes, inputs.lms, validation_length(cfg))
    return {name: sum(values) / len(values) for name, values in scores.f1.items()}
