"""What no data could make right in the scores' keys; nothing heavy is imported for it."""

from __future__ import annotations

from omegaconf import DictConfig

from callbacks.errors import UserError


def judge_score(cfg: DictConfig) -> None:
    """Refuse a blur without a middle.

    Raises:
        UserError: such a blur.
    """
    if cfg.score.blur % 2 == 0:
        remedy = f"set score.blur={cfg.score.blur - 1}"
        raise UserError("score.blur", str(cfg.score.blur), "an odd number of patches, which has a middle", remedy)
