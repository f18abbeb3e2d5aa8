"""What trackers are told of runs of latentwire beyond what holds for every program."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from suite.tracking import Findings


def tags(cfg: DictConfig) -> list[str]:
    """Return corpus, encoder, injector, codec and objectives."""
    nodes = (cfg.corpus, cfg.encoder, cfg.injector, cfg.codec)
    return [*(str(node._target_).rpartition(".")[2] for node in nodes), *map(str, cfg.objectives)]


def findings(evaluation: Path) -> Findings:
    """Return what an evaluation has left in its folder (questions, answers, tables), and the verdicts of the rules."""
    return Findings({"predictions": [evaluation]}, verdicts="acceptance")
