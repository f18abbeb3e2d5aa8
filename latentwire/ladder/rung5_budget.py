"""Rung 5: the checkpoint is whole and gives its metric again; the wire beats no context and the fair token budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callbacks.run.manifest import trainable
from callbacks.stages.lr import LRSchedule
from latentwire.baselines.base import Baseline
from latentwire.baselines.budget import TokenBudget, WholePromptBudget
from latentwire.baselines.text import NoContext
from latentwire.checkpoints import checkpoint_path, read_checkpoint, read_config, take_over
from latentwire.data.base import Passage
from latentwire.examples import is_continuation
from latentwire.ladder import options
from latentwire.ladder.bare_trainer import module_of, trainer_of
from latentwire.ladder.subject import Subject, unregistered
from latentwire.ladder.verdict import Check, Verdict, judged
from latentwire.objectives.base import Needs
from latentwire.scoring.evaluator import Evaluator, Wire
from latentwire.train.batches import Contexts
from suite.loader import EpochBatches, ResumableLoader
from suite.statistics import bootstrap_interval

N_BOOT = 1000
STRICTLY = 1e-9  # an interval that begins at 0 beats nothing
WHOLE = (
    "keep callbacks.manifest, which refuses to write such a file; register the tensors in the module "
    "(adaptation.*: LatentWire.lora; encoder.rank: its encoder.lora), then train again"
)


@dataclass
class Trained:
    """Holds a finished run: its configuration built anew, and its best checkpoint, not loaded yet."""

    subject: Subject
    checkpoint: dict[str, Any]
    path: Path

    @classmethod
    def read(cls, run_dir: Path) -> Trained:
        """Read a run. Raises UserError: no such run, or a checkpoint of another program."""
        cfg, path = read_config(run_dir), checkpoint_path(run_dir)
        return cls(Subject.build(cfg), read_checkpoint(run_dir), path)


def budget(run: Trained, o: options.BudgetOptions) -> Verdict:
    """Judge a trained wire; its weights are loaded on the way.

    Raises:
        UserError: tensors that changed between the file and the model.
    """
    checks = complete(run.subject, run.checkpoint)
    if not all(c.passed for c in checks):
        return judged(5, checks)
    take_over(run.subject.wire, run.checkpoint, "wire.", str(run.path))
    run.subject.place()
    checks += reproduced(run.subject, run.checkpoint["latentwire"]["val"], o.tolerance)
    if all(c.passed for c in checks):
        for margin in margins(run.subject, run.subject.wire, o.passages):
            checks += margin.checks(run.subject)
    return judged(5, checks)


# -- the checkpoint -----------------------------------------------------------------------------------------------
def complete(subject: Subject, checkpoint: Mapping[str, Any]) -> list[Check]:
    """Check that every tensor that this configuration trains is in the file, LoRA of readers and encoder included.

    The file's own word is not taken for it: names come from a wire built anew and from the readers' adapters, the
    number of tensors from the state of the optimiser that trained them.
    """
    names = trained_tensors(subject)
    state, listed = checkpoint["state_dict"], checkpoint.get("manifest", {}).get("tensors", {})
    lost = [name for name in names if name not in state]
    groups = [g for s in checkpoint.get("optimizer_states", []) for g in s["param_groups"]]
    moved = {str(g.get("name", n)): len(g["params"]) for n, g in enumerate(groups)}
    kept = len({*(n for n in listed if n in state), *(n for n in names if n in state)})
    found = (
        f"{lost[0]} was trained and is not in the checkpoint"
        + (f", nor are {len(lost) - 1} more" if len(lost) > 1 else "")
        if lost
        else ""
    )
    missing = sum(moved.values()) - kept if moved else 0
    return [
        Check("trained tensors that are not in the checkpoint", len(lost), high=0, found=found, remedy=WHOLE),
        Check("tensors of the optimiser that are not in the checkpoint", missing, high=0, remedy=WHOLE,
              found=f"the optimiser moved {sum(moved.values())} tensors ({', '.join(moved)}), "
              f"the checkpoint has {kept}"),
        Check("trained tensors in the checkpoint", kept),
    ]  # fmt: skip


def trained_tensors(subject: Subject) -> list[str]:
    """Return what is trained by name: of the wire as in a checkpoint, and of adapters that the wire does not know."""
    return [*(f"wire.{name}" for name in trainable(subject.wire)), *unregistered(subject)]


def reproduced(subject: Subject, recorded: Mapping[str, float], tolerance: float) -> list[Check]:
    """Validate once more, through the same trainer, and compare with what the checkpoint was saved for."""
    cfg, wire = subject.cfg, subject.wire
    held = subject.passages("val", int(cfg.loader.eval_passages))
    needs = Needs(whole_prompt=subject.whole)
    data = Contexts(held, wire.encoder, subject.lms, int(cfg.loader.eval_questions), needs, 0)
    loader = ResumableLoader(data, EpochBatches(len(data), int(cfg.loader.eval_batch_size), 0, train=False), 0)
    module = module_of(subject, 1, LRSchedule())
    with trainer_of(subject, 1, []) as trainer:
        trainer.validate(module, loader, verbose=False)
    now = module.metrics["val"]
    worst, name = max((abs(now.get(k, float("inf")) - v), k) for k, v in recorded.items())
    return [
        Check("largest difference to the recorded metrics", worst, high=tolerance,
              found=f"the reloaded wire has {name} = {now.get(name, float('nan')):.6g}, recorded was "
              f"{recorded[name]:.6g}",
              remedy="the checkpoint is not the wire that was measured: train again with callbacks.manifest; where "
              "only the machine or library changed, allow it with ladder.budget.tolerance"),
        Check("recorded F1", recorded.get("f1", float("nan"))),
    ]  # fmt: skip


# -- against others -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Margin:
    """Compares a wire with another method on one model, in F1, or in NLL where a text is continued.

    Attributes:
        model: name of the model.
        other: name of the other method.
        metric: `F1` or `NLL`.
        difference: mean difference, positive where the wire is better.
        low, high: its 95 % interval over passages.
        f1, f1_low, f1_high: F1 of the wire itself, with its interval.
    """

    model: str
    other: str
    metric: str
    difference: float
    low: float
    high: float
    f1: float
    f1_low: float
    f1_high: float

    def checks(self, subject: Subject) -> list[Check]:
        """Return the check that the wire is better, and the difference."""
        what = f"{self.metric} over {self.other}"
        return [
            Check(subject.label(f"{what}, lower end", self.model), self.low, low=STRICTLY,
                  found=f"on {self.model} the wire is not better than {self.other}: {self.difference:+.3f} in "
                  f"{self.metric} [{self.low:+.3f}, {self.high:+.3f}]",
                  remedy="train longer (trainer.max_epochs), with lr_schedule.warmup_steps and several questions per "
                  "context (loader.questions), use injector=deep_prefix, a lower wire.ratio or curriculum=ratio; for a "
                  "closer interval raise ladder.budget.passages"),
            Check(subject.label(what, self.model), self.difference),
        ]  # fmt: skip


def margins(subject: Subject, wire: Wire, passages: int) -> list[Margin]:
    """Compare the wire with no context and the fair budget at its M, on validation passages, model by model."""
    held = subject.passages("val", passages)
    others = rivals(subject)
    metric = "NLL" if _continues(held) else "F1"
    found = []
    for name, lm in subject.lms.items():
        evaluator = Evaluator(
            {name: lm}, held, others, int(subject.cfg.evaluation.max_new_tokens), int(subject.cfg.seed),
            batch_size=int(subject.cfg.evaluation.batch_size), n_boot=N_BOOT,
        )  # fmt: skip
        result = evaluator.run({"wire": wire}, whole_prompt=["wire"] if subject.whole else [])
        rows = {key: [r for r in result.rows if r["method"] == key] for key in ("wire", *others)}
        own = result.methods["wire"]
        for other in others:
            pairs = list(zip(rows["wire"], rows[other], strict=True))
            each = [b["nll"] - a["nll"] if metric == "NLL" else a["f1"] - b["f1"] for a, b in pairs]
            got = bootstrap_interval(each, [r["group"] for r in rows["wire"]], N_BOOT, 0)
            ends = own["f1"], own["f1_low"], own["f1_high"]
            found.append(Margin(name, other, metric, got.estimate, got.low, got.high, *ends))
    return found


def rivals(subject: Subject) -> dict[str, Baseline]:
    """Return no context and the budget that is fair on this track, as configured where they are."""
    fair: Baseline = WholePromptBudget() if subject.whole else TokenBudget()
    return {b.name: subject.baselines.get(b.name, b) for b in (NoContext(), fair)}


def _continues(passages: list[Passage]) -> bool:
    return all(is_continuation(q) for p in passages for q in p.questions)
