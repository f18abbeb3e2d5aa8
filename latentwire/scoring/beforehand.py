"""What an evaluation will need, asked before any training: `refuse` of a tree alone, `ready` of data and models."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from omegaconf import DictConfig

from callbacks.errors import UserError
from latentwire.acceptance import EVALUATION, METHODS, Rule
from latentwire.baselines.base import Baseline
from latentwire.baselines.budget import TokenBudget, WholePromptBudget
from latentwire.build import Inputs, validation_length
from latentwire.codec.message import MOST_SLOTS
from latentwire.data.base import Passage, Split
from latentwire.examples import examples
from latentwire.injectors.latent_adapters import LatentAdapters
from latentwire.lm.decoding import Decoding, gainless
from latentwire.lm.frozen import FrozenLM
from latentwire.scoring.finished import device_of
from latentwire.scoring.messages import CONTROLS, other_texts, texts_of
from latentwire.scoring.prefixes import at
from latentwire.stages import nested_of
from latentwire.wire import LatentWire
from suite.config.compose import merge_errors, shorten
from suite.config.instantiate import build_node
from suite.config.signature import locate


def refuse(cfg: DictConfig) -> None:
    """Refuse a tree whose evaluation cannot be done, whatever its data.

    Raises:
        UserError: one error with all that is wrong: a baseline beside a wire of another track or beside an adapter, a
            rule on a row or a period that will not be.
    """
    e, problems = cfg.evaluation, list[UserError]()
    if e.get("slots") and nested_of(cfg) is None:
        found, expected = str(list(e.slots)), "null, as this wire is not trained to be read in part"
        problems.append(
            UserError(
                "evaluation.slots", found, expected, "leave out evaluation.slots, or train with curriculum=nested"
            )
        )
    if e.get("decode") is not None:
        problems += _undecodable(build_node(e.decode), int(e.max_new_tokens), cfg.injector._target_)
    built = {str(name): build_node(node) for name, node in cfg.baselines.items() if node is not None}
    problems += _misplaced(cfg, built)
    problems += _unjudgeable(cfg, built)
    if problems:
        raise merge_errors(problems, "evaluation")


def _undecodable(decoding: Decoding, most: int, injector: str) -> Iterable[UserError]:
    key = "evaluation.decode"
    if decoding.min_new_tokens > most:
        expected = f"at most {most}, where answers end (evaluation.max_new_tokens)"
        yield UserError(
            f"{key}.min_new_tokens", str(decoding.min_new_tokens), expected, f"set {key}.min_new_tokens={most}"
        )
    kind = locate(injector)
    if decoding.gain is not None and isinstance(kind, type) and issubclass(kind, LatentAdapters):
        yield gainless(f"latents that layers read beside ({injector})")


def _misplaced(cfg: DictConfig, baselines: Mapping[str, Baseline]) -> Iterable[UserError]:
    track, right = str(cfg.wire.track), _budget(cfg).name
    for name, baseline in baselines.items():
        if track not in baseline.tracks:
            fitting = [n for n, b in baselines.items() if track in b.tracks and n != right]
            yield UserError(
                f"baselines.{name}",
                f"a budget for wire.track={' | '.join(baseline.tracks)}",
                f"one for wire.track={track}",
                f"write baseline=[{','.join([*fitting, right])}]",
            )
        if baseline.bare and cfg.adaptation:
            yield UserError(
                f"baselines.{name}",
                f"{', '.join(map(str, cfg.adaptation))} with an adapter",
                "readers without one, which it copies and learns on",
                f"add ~baselines.{name}, or leave out adaptation",
            )


def _budget(cfg: DictConfig) -> type[Baseline]:
    """Return the budget that is fair on the track."""
    return WholePromptBudget if cfg.wire.track in WholePromptBudget.tracks else TokenBudget


def rows_of(cfg: DictConfig, baselines: Mapping[str, Baseline]) -> list[str]:
    """Return the names of the rows that an evaluation will have, without the model's where there are several."""
    frozen = [f"{name}:frozen" for name, b in baselines.items() if b.adapts and cfg.adaptation]
    rows = [*baselines, *frozen, "wire", *(f"wire:{kind}" for kind in CONTROLS)]
    changed = [row for row in rows if row not in baselines or baselines[row].budgeted]
    return [*rows, *(at(row, k) for k in cfg.evaluation.get("slots") or () for row in changed)]


def _unjudgeable(cfg: DictConfig, baselines: Mapping[str, Baseline]) -> Iterable[UserError]:
    beside = {name: b for name, b in baselines.items() if cfg.wire.track in b.tracks}
    rows, models = rows_of(cfg, beside), [str(name) for name in cfg.lms]
    known = set(rows)
    if len(models) > 1:
        known |= {f"{row}/{model}" for row in rows for model in models}
        known |= {"wire/joint", "wire/oracle", *(f"wire/rescored by {model}" for model in models)}
    periods = [str(build_node(node).name) for node in cfg.stages]
    for stage, named in cfg.acceptance.items():
        if named is None:
            continue
        if stage not in (EVALUATION, *periods):
            expected = f"{EVALUATION}, or a period of the training: {', '.join(periods)}"
            yield UserError(f"acceptance.{stage}", "no such period", expected, f"add ~acceptance.{stage}")
        if stage == EVALUATION:
            for name, node in named.items():
                yield from _rowless(f"acceptance.{stage}.{name}", node, known, _budget(cfg).name)


def _rowless(place: str, node: DictConfig | None, known: Collection[str], budget: str) -> Iterable[UserError]:
    """Yield what is wrong with a rule on a row that there will not be."""
    rule: Rule | None = None if node is None else build_node(node)
    for key in ("metric", "over", "minus") if rule is not None else ():
        path = getattr(rule, key) or ""
        row = path.removeprefix(METHODS).rpartition(".")[0]
        if not path.startswith(METHODS) or row in known:
            continue
        remedy = (
            f"add {row} to baseline=[…], or ~{place}"
            if "." in path.removeprefix(METHODS)
            else (f"write {place}.{key}={METHODS}wire.f1, or add ~{place}")
        )
        if row in (TokenBudget.name, WholePromptBudget.name) and row != budget:
            remedy = f"write {place}.{key}={path.replace(row, budget)}, with {budget} in baseline=[…]"
        yield UserError(f"{place}.{key}", f"{path}: no such row", shorten(sorted(known), 16), remedy)


def ready(cfg: DictConfig, inputs: Inputs, wire: LatentWire) -> None:
    """Refuse data and models that validation or evaluation would fail on.

    Args:
        cfg: the tree; `refuse` has passed it.
        inputs: models and data.
        wire: the wire, trained or not.

    Raises:
        UserError: no such accelerator, prefixes that the wire's messages do not have, more passages than the split has,
            none with a question, a prompt that leaves no room for an answer, a text that the encoder does not take, or
            more slots than a message can count.
    """
    device_of(cfg)
    if wire.slots > MOST_SLOTS:
        found, expected = f"{wire.slots} slots", f"at most {MOST_SLOTS}, which a message can count"
        raise UserError("wire.slots", found, expected, "set wire.slots=64")
    for k in cfg.evaluation.get("slots") or ():
        wire.layout.prefix(int(k), "evaluation.slots")
    asked: list[tuple[Split, int, int, str]] = [
        ("val", min(int(cfg.loader.eval_passages), len(inputs.corpus.split("val"))), validation_length(cfg),
         "loader.eval_max_new_tokens"),
        (cfg.evaluation.split, int(cfg.evaluation.passages), int(cfg.evaluation.max_new_tokens),
         "evaluation.max_new_tokens"),
    ]  # fmt: skip
    for split, count, new, key in asked:
        there = inputs.corpus.split(split)
        if count > len(there):
            remedy = f"set evaluation.passages={len(there)}" if len(there) else f"set corpus.{split}={count}"
            found = f"{count} passages of the {split} split, which has {len(there)}"
            raise UserError("evaluation.passages", found, "passages that are there", remedy)
        passages = [there[i] for i in range(count)]
        if not any(p.questions for p in passages):
            raise UserError(f"{split} split", "no question", "at least one", "set evaluation.passages=200")
        for name, lm in inputs.lms.items():
            spent = wire.injectors[name].columns(sum(wire.layout.counts(name)))
            _room(lm, passages, new, spent, f"{split} split on {name}", key)
        texts, _ = texts_of(passages, wire.whole_prompt)
        others = other_texts(passages, int(cfg.seed)) if wire.whole_prompt else []
        for text in (*texts, *others):
            wire.encoder.tokenize([text])


def _room(lm: FrozenLM, passages: Sequence[Passage], new: int, slots: int, where: str, key: str) -> None:
    """Refuse a prompt that leaves no room for an answer of `new` tokens, behind the text or behind the latents."""
    for e in examples(lm, passages):
        p = e.prompt
        before = len(lm.style.head) + max(len(p.context), slots) + len(p.question)
        if before + new > lm.max_tokens:
            free = lm.max_tokens - before
            raise UserError(
                f"{where}, question {e.question.id}",
                f"{before} tokens of prompt and {new} of answer",
                f"at most {lm.max_tokens} positions",
                f"set {key}={free}" if free > 0 else "choose shorter texts (corpus.*) or a reader with more positions",
            )
