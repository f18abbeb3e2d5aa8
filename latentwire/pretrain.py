"""Make a pocket language model: `python -m latentwire.pretrain lm=pocket_llama [install=true] [key=value …]`.

Two courses, see `latentwire.pocket.training`; interrupt it whenever you like: the same command goes on to the same end.

    python -m latentwire.pretrain lm=pocket_llama
    python -m latentwire.pretrain lm=pocket_qwen seed=1 paths.runs=DIR

The model is left in `<paths.runs>/pretrain/<name>`; `install=true` puts it into the package.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callbacks.errors import UserError
from suite.config.check import Common
from suite.runs.command import command, helped


@dataclass
class Tree(Common):
    """Names the nodes of the tree."""

    lm: Any
    pocket: Any
    install: bool


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    if helped(argv, __doc__):
        return 0
    from latentwire.pocket import architecture
    from latentwire.pocket.card import card, evaluate
    from latentwire.pocket.training import Trainer
    from suite.config.check import check
    from suite.config.compose import compose
    from suite.config.instantiate import build_node

    overrides = list(sys.argv[1:] if argv is None else argv)
    cfg = compose("latentwire/pretrain", overrides)
    check(cfg, Tree)
    folder = Path(cfg.paths.runs) / "pretrain" / cfg.name
    trainer = Trainer(build_node(cfg.pocket), cfg.seed, folder)
    if cfg.resume != "never" and trainer.checkpoint.exists():
        trainer.restore()
    elif cfg.resume == "must":
        raise UserError("resume=must", f"no {trainer.checkpoint}", "a checkpoint", "set resume=auto")
    trainer.train()
    model = folder / "model"
    architecture.save(trainer.model, trainer.tokenizer, model)
    scores = evaluate(architecture.read(model), trainer.questions, trainer.spec.eval_contexts, cfg.seed)
    text = card(cfg.name, trainer, scores, " ".join(["python -m latentwire.pretrain", *overrides]))
    architecture.seal(model, text)
    if cfg.install:
        shutil.copytree(model, architecture.ROOT / cfg.name, dirs_exist_ok=True)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
