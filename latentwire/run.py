"""`python -m latentwire.run experiment=pocket`: train a wire, evaluate it against every baseline, judge it.

What acts on the finished weights alone (`evaluation`, `baselines`, `acceptance`) makes no other run: the same command
with other such keys finds the finished training and evaluates it (see `latentwire.evaluate`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from omegaconf import DictConfig

from callbacks.ranges import NOT_EMPTY, Rate, Share
from latentwire.about import ABOUT
from latentwire.nodes import EvaluationNode, HFNode, InitNode, Loader, PlacementNode, TeacherNode, WireNode
from latentwire.wire_parts import INIT, earlier_runs, frozen, frozen_groups
from suite.config.check import Common
from suite.config.parts import CallbackPart, LoggerPart, OptimizerPart, SchedulePart, TrainerPart
from suite.config.signature import locate
from suite.config.wording import Built
from suite.runs.job import Run
from suite.runs.launch import launch
from suite.runs.planning import LEFT_OUT
from suite.runs.stopping import ends_on_interrupt
from suite.runs.study import Program

ReaderPart = Annotated[Any, Built("latentwire.lm.FrozenLM", "set readers=pocket_llama")]
RulePart = Annotated[Any, Built("latentwire.Rule", "set {key}._target_=latentwire.Rule")]


@dataclass
class Tree(Common):
    """Names the plain nodes of the latentwire configuration tree.

    Attributes:
        corpus: the passages and their questions.
        lms: the frozen models that read, by name.
        hf: what `readers=hf` reads: `lms.hf` takes its values from here.
        init: the parts that begin with those of finished runs (`init.adapter.pocket_llama=RUN`); absent in other runs.
        freeze: the parts that training leaves as they are (`freeze=[encoder,adapter.pocket_llama]`); absent if none.
        encoder_lm: the model that the encoder stands on; null takes the first that reads.
        encoder: text to latents, a factory that is called with the model, `d_z` and the names of the slices.
        adapter: latents to the width of a model, a factory that the injectors call.
        injector: latents to what a model reads, a factory that is called once per model.
        codec: latents to bytes and back, a factory that is called with `d_z`.
        placement: where models lie and how they save memory.
        wire: the size of a message and what it carries.
        objectives: what the latents are trained for, by name.
        stages: the periods of the training, in order.
        observe_smoothing: weight of the past in the running means of the metrics that gate a schedule.
        adaptation: LoRA on models that read, by name; a model without stays frozen.
        teacher: the same models on the text itself, for objectives that distil.
        loader: the batches.
        optimizer: the optimiser, a factory that is called with the parameter groups.
        lr_schedule: the schedule of the learning rate.
        group_lr: the learning rate of groups, by kind (`adapter`) or exactly (`adapter:pocket_qwen`), in place of the
            optimiser's.
        baselines: what the wire is compared with at the same M, by name; null leaves one out.
        evaluation: the evaluation that ends a run.
        acceptance: the rules that judge a run, by period of the training or under `evaluation`, each by name.
        trainer: the options of Lightning's trainer.
        callbacks: the callbacks and stages, by name; null leaves one out.
        logger: the loggers beside the run's own tables, by name; null leaves one out.
        label: the name of the configuration in tables and figures; null takes what differs between compared runs.
    """

    corpus: Annotated[Any, Built("latentwire.data.Corpus", "set corpus=biographies")]
    lms: dict[str, ReaderPart]
    encoder_lm: Annotated[Any, Built("latentwire.lm.FrozenLM", "leave {key} out")] | None
    encoder: Annotated[Any, Built("latentwire.encoders.Encoder", "set encoder=lm_hidden")]
    adapter: Annotated[Any, Built("latentwire.adapters.Adapter", "set adapter=mlp")]
    injector: Annotated[Any, Built("latentwire.injectors.Injector", "set injector=deep_prefix")]
    codec: Annotated[Any, Built("latentwire.codec.Codec", "set codec=fp16")]
    placement: PlacementNode
    wire: WireNode
    objectives: dict[str, Annotated[Any, Built("latentwire.objectives.Objective", "set objective=[answer_ce]")]]
    stages: list[Annotated[Any, Built("latentwire.train.Period", "set curriculum=single")]]
    observe_smoothing: Share
    adaptation: dict[str, Annotated[Any, Built("latentwire.lm.LoRA", "set {key}._target_=latentwire.lm.LoRA")]]
    teacher: TeacherNode
    loader: Loader
    optimizer: OptimizerPart
    lr_schedule: SchedulePart
    group_lr: dict[str, Rate]
    baselines: dict[str, Annotated[Any, Built("latentwire.baselines.Baseline", "leave {key} out: ~{key}")] | None]
    evaluation: EvaluationNode
    acceptance: dict[str, dict[str, RulePart | None] | None]
    trainer: TrainerPart
    callbacks: dict[str, CallbackPart | None]
    logger: dict[str, LoggerPart | None]
    label: str | None
    hf: HFNode | None
    init: InitNode | None = field(default=None, kw_only=True, metadata={LEFT_OUT: True})
    freeze: Annotated[list[str], NOT_EMPTY] | None = field(default=None, kw_only=True, metadata={LEFT_OUT: True})


def dead(cfg: DictConfig) -> dict[str, str]:
    """Return keys without effect under this configuration, with the reasons."""
    reasons: dict[str, str] = {}
    if cfg.wire.slots is not None:
        reasons["wire.ratio"] = "wire.slots says how many latents there are"
    elif cfg.wire.from_run is not None:
        reasons["wire.ratio"] = "wire.from_run brings its own number of latents"
    if cfg.wire.from_run is not None and cfg.wire.get("start_from") is not None:
        reasons["wire.start_from"] = "wire.from_run fixes encoder and codec"
    if not any(locate(node._target_).teaches for node in cfg.objectives.values()):
        reasons["teacher"] = "no objective learns from the teacher (objective=[answer_ce,answer_kd])"
    for kind in {name.partition(":")[0] for name in map(str, cfg.group_lr)}:
        if cfg.wire.from_run is not None and kind in ("encoder", "codec"):
            reasons[f"group_lr.{kind}"] = "wire.from_run fixes encoder and codec"
    for group in frozen_groups(cfg) & set(map(str, cfg.group_lr)):
        reasons[f"group_lr.{group}"] = "freeze keeps it as it is"
    if "evaluation" in cfg.acceptance and not cfg.baselines:
        for name, rule in cfg.acceptance.evaluation.items():
            if rule.get("over") or rule.get("minus"):
                reasons[f"acceptance.evaluation.{name}"] = "there are no baselines to compare with"
    return reasons


def earlier(cfg: DictConfig) -> dict[str, Path]:
    """Return the checkpoints of the runs that this one stands on, by the key that names them."""
    return {key: run / "checkpoints" / "best.ckpt" for key, run in earlier_runs(cfg).items()}


def judge(cfg: DictConfig) -> None:
    """Refuse a tree whose training or evaluation cannot be done, before any job runs."""
    from latentwire.scoring import beforehand as evaluation
    from latentwire.train import beforehand as training

    training.refuse(cfg)
    evaluation.refuse(cfg)


def foresee(cfg: DictConfig) -> dict[str, str]:
    """Return what is known of a run before it starts (`plan=true`); no model is loaded."""
    from latentwire.footprint import line
    from suite.config.instantiate import build_node

    steps, epochs, most = cfg.loader.steps_per_epoch, cfg.trainer.max_epochs or -1, cfg.trainer.max_steps
    if epochs < 0:
        told = f"{most} at most"
    else:
        told = f"{steps * epochs} in {epochs} epochs" if steps else f"{epochs} epochs, as long as the stages"
    return {"steps": told, "estimate": line(cfg, build_node(cfg.corpus).split("train"))}


def train(cfg: DictConfig, run: Run) -> dict[str, Any]:
    """Do one run from data to result (see `suite.runs.launch`)."""
    from latentwire.build import build
    from latentwire.scoring.beforehand import ready
    from latentwire.scoring.finished import folder_of
    from latentwire.tracking import findings
    from suite.shell import closing_loggers, quiet_lightning
    from suite.tracking import publish

    quiet_lightning()
    judge(cfg)
    parts = build(cfg, run)
    ready(cfg, parts.inputs, parts.module.wire)
    with closing_loggers(parts.trainer):
        result = fit_and_evaluate(cfg, run, parts)
        publish(parts.trainer.loggers, run.dir, result, findings(folder_of(run.dir, cfg)))
        return result


def fit_and_evaluate(cfg: DictConfig, run: Run, parts: Any) -> dict[str, Any]:
    """Train, then evaluate the weights of the best validation, which must reproduce what they were saved for."""
    from callbacks.run.manifest import verify
    from callbacks.run.stored import read_checkpoint
    from latentwire.scoring.finished import judged, score
    from suite.report import single_report
    from suite.shell import best_checkpoint, best_moment

    trainer, module = parts.trainer, parts.module
    before = dict(module.fingerprints)
    trainer.fit(
        module,
        parts.train,
        parts.val,
        ckpt_path=str(run.resume_from) if run.resume_from else None,
        weights_only=True,
    )
    for name, lm in module.lms.items():
        lm.verify(before[name])
    module.wire.refuse_moved()
    best = best_checkpoint(run)
    result: dict[str, Any] = {
        "counters": parts.pipeline.counters(),
        "val": dict(module.metrics["val"]),
        **best_moment(trainer),
    }
    saved = read_checkpoint(best, config_hash=run.hash)
    module.load_state_dict(saved["state_dict"])
    verify(saved, module, str(best))
    trainer.validate(module, parts.val, verbose=False)
    reproduced, recorded = dict(module.metrics["val"]), saved["latentwire"]["val"]
    if reproduced != recorded:
        raise RuntimeError(f"{best} does not reproduce what it was saved for: {recorded} then, {reproduced} now")
    result["val_best"] = reproduced
    if not run.is_main and not module.shards:  # the evaluation is rank 0's: nothing in it is shared
        return result
    result.update(facts(cfg, parts))
    found = score(cfg, run.dir, parts.inputs, module.wire, writes=run.is_main)
    if not run.is_main:
        return result
    result = judged(cfg, result, found)
    result["report"] = single_report(run.dir, {**result, "status": "finished"}).name
    return result


def facts(cfg: DictConfig, parts: Any) -> dict[str, Any]:
    """Return what a result says of the trained wire, whatever it is asked."""
    from latentwire.rivals import TRAINING, told_training
    from latentwire.warm_start import size_of

    wire, heads = parts.module.wire, parts.module.objectives
    still = {
        part: heads[part.partition(".")[2]] if part.startswith("head.") else wire.part(part) for part in frozen(cfg)
    }
    return {
        "tokens": parts.inputs.lengths,
        "track": {name: "trained" if name in cfg.adaptation else "frozen" for name in parts.inputs.lms},
        "compressed": "question and context" if wire.whole_prompt else "context",
        "identity": wire.identity().hex(),
        "gains": wire.gains(),
        TRAINING: told_training(cfg, parts.inputs.corpus),
        "parameters": {name: sum(p.numel() for p in params) for name, params in parts.module.groups().items()},
        **({"frozen": {part: size_of(module, part) for part, module in still.items()}} if still else {}),
        **({INIT: wire.provenance} if wire.provenance else {}),
    }


def ask(cfg: DictConfig, run_dir: Path, anew: bool = False) -> dict[str, Any]:
    """Return the numbers of the evaluation that a tree asks a finished run for, measured now unless they are there.

    Args:
        cfg: the tree.
        run_dir: the run's directory.
        anew: whether numbers that are there are measured again.

    Raises:
        UserError: a run or a checkpoint that `latentwire.restore.load` refuses, or an evaluation that cannot be done.
    """
    from latentwire.report.stored import read_evaluation
    from latentwire.restore import load
    from latentwire.scoring.beforehand import ready, refuse
    from latentwire.scoring.finished import folder_of, numbers, score
    from suite.runs.job import seed_everything
    from suite.shell import quiet_lightning

    found = None if anew else read_evaluation(folder_of(run_dir, cfg))
    if found is None:
        quiet_lightning()
        refuse(cfg)
        loaded = load(run_dir)
        ready(cfg, loaded.inputs, loaded.wire)
        seed_everything(int(cfg.seed))
        found = score(cfg, run_dir, loaded.inputs, loaded.wire)
    return numbers(found)


def again(cfg: DictConfig, run: Run, before: dict[str, Any]) -> dict[str, Any] | None:
    """Ask a finished run what a tree wants to know of it; None where its result says so already."""
    from latentwire.scoring.finished import folder_of, judged
    from latentwire.tracking import findings, tags
    from suite.report import single_report
    from suite.runs.job import write_config
    from suite.runs.ledger import jsonable
    from suite.tracking import track_evaluation

    result = judged(cfg, before, ask(cfg, run.dir))
    if jsonable(result) == before:
        return None
    write_config(cfg, run.dir)  # which the report shows
    result["report"] = single_report(run.dir, jsonable(result)).name
    asked = folder_of(run.dir, cfg)
    track_evaluation(cfg, run.dir, asked.name, result, tags(cfg), findings(asked))
    show(cfg, result)
    return result


def show(cfg: DictConfig, result: dict[str, Any]) -> None:
    """Show the result on the terminal: methods by F1, then the verdicts."""
    from rich.table import Table

    from latentwire.report.wires import bounds_of
    from suite.runs import display

    console = display.console()
    table = Table(title=f"{cfg.name}: M = {result['M']}, {result['ratio']:.1f}x")
    for column in ("method", "F1", "95 %", "EM", "NLL", "positions", "bytes"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, m in sorted(result["methods"].items(), key=lambda item: -item[1]["f1"]):
        interval = f"{m['f1_low']:.3f}–{m['f1_high']:.3f}"
        numbers = [f"{m[k]:.3f}" if m.get(k) is not None else "" for k in ("em", "nll")]
        costs = [f"{m[k]:.0f}" if m.get(k) is not None else "" for k in ("positions", "bytes")]
        table.add_row(name, f"{m['f1']:.3f}", interval, *numbers, *costs)
    console.print(table)
    for v in result["acceptance"]:
        sign = "[green]passed[/]" if v["passed"] else "[red]failed[/]"
        said = "; ".join(part for part in (bounds_of(v), v["what"], v["remark"]) if part)
        console.print(f"{sign} {v['stage']}: {v['rule']} = {v['value']:.4g} ({said})", highlight=False)


def task(cfg: DictConfig, run: Run) -> dict[str, Any]:
    """Do one run and show its table on the terminal."""
    result = train(cfg, run)
    if run.is_main:
        show(cfg, result)
    return result


PROGRAM = Program("latentwire", task, dead, Tree, earlier, judge, again)


@ends_on_interrupt
def main() -> None:
    """Run the command."""
    launch(
        "latentwire", task, dead, schema=Tree, earlier=earlier, judge=judge, again=again, about=ABOUT, foresee=foresee
    )


if __name__ == "__main__":
    main()
