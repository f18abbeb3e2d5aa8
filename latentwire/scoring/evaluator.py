"""The evaluator: wires, their controls and every baseline on the same questions, prompts and scorer.

Batches are formed by the length of the context, all questions of a passage side by side, so that a passage is
encoded once and its prefix shared. The teacher of the KL is the same model on the plain prompt, adapters off.
An adapted model (LoRA) is another track. Wires are read with its adapter on, and so are the text and its budgets beside
them, under their own names; what the bare model makes of these stands in rows `<name>:frozen`. Every other baseline
reads the bare model. Tests compare rows of one track.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from callbacks.errors import UserError
from callbacks.run.collapse import effective_rank
from latentwire.baselines.base import Baseline, Sent
from latentwire.baselines.controls import REMARKS, control
from latentwire.baselines.training import TrainingBudget
from latentwire.data.base import Passage
from latentwire.data.squad_metrics import best, exact_match, f1
from latentwire.examples import Example, examples
from latentwire.lm.decoding import Decoding
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix, right_padded
from latentwire.lm.metrics import first_token, kl
from latentwire.scoring import two_readers as joint
from latentwire.scoring.evaluation import Evaluation, paired_tests
from latentwire.scoring.messages import other_texts, texts_of
from latentwire.scoring.metrics import Row, by_example, by_kind, summarise, text_sizes
from latentwire.scoring.sending import Messages, Wire, send

FEW = 200  # questions below which an interval is too wide to rank methods by


@dataclass(frozen=True)
class _Method:
    """Makes one row of the table on one model: `read` gives the prefix of some examples."""

    name: str
    read: Callable[[list[Example]], Prefix]
    follows: Callable[[Example], tuple[int, ...]]
    sent: Callable[[Prefix, int, Example], Sent]
    baseline: Baseline | None = None
    adapters: bool = False
    kind: Literal["wire", "control", "baseline"] = "baseline"


class Evaluator:
    """Evaluates wires and baselines on passages.

    A question without text is a continuation, see `examples.prompt_of`.

    Args:
        lms: language models by the names that wires know them by.
        passages: passages whose questions are all asked.
        baselines: baselines by name.
        max_new_tokens: longest answer, in tokens.
        seed: seed of controls and bootstrap.
        budget: what trained baselines learn from and for how long; None: there are none.
        rivals: folder where what they have learned is kept, and read if it is there; None: nowhere.
        batch_size: number of questions at a time.
        n_boot: number of bootstrap draws.
        decoding: how answers are decoded; None: greedily. Its gain acts on wires and their controls.
    """

    def __init__(
        self,
        lms: Mapping[str, FrozenLM],
        passages: Sequence[Passage],
        baselines: Mapping[str, Baseline],
        max_new_tokens: int = 16,
        seed: int = 0,
        budget: TrainingBudget | None = None,
        rivals: Path | None = None,
        batch_size: int = 64,
        n_boot: int = 2000,
        decoding: Decoding | None = None,
    ):
        if not lms or not sum(len(p.questions) for p in passages):
            found = f"{len(lms)} models, {len(passages)} passages"
            raise UserError("evaluation", found, "a model and a question", "set evaluation.passages=200")
        self.lms, self.passages, self.baselines = dict(lms), list(passages), dict(baselines)
        self.max_new_tokens, self.seed, self.budget, self.rivals = max_new_tokens, seed, budget, rivals
        self.batch_size, self.n_boot, self.decoding = batch_size, n_boot, decoding
        self.examples = {name: examples(lm, self.passages) for name, lm in self.lms.items()}

    def beside(self, baselines: Mapping[str, Baseline]) -> Evaluator:
        """Return the same with other baselines."""
        other = copy.copy(self)
        other.baselines = dict(baselines)
        return other

    @torch.no_grad()
    def run(
        self, wires: Mapping[str, Wire], slots: int | None = None, whole_prompt: Collection[str] = ()
    ) -> Evaluation:
        """Evaluate wires, which must be in evaluation mode, and baselines.

        Args:
            wires: wires by name, all of the same M; without any the baselines are evaluated alone.
            slots: M; None: that of the wires.
            whole_prompt: names of wires whose message holds the question as well (`whole_prompt_text`); behind them
                only the cue is text.

        Raises:
            UserError: wires of different M, no M at all, latents that are not finite, or a name that is both a wire's
                and a baseline's.
        """
        if both := sorted(set(wires) & set(self.baselines)):
            remedy = f"write baselines.<another name> in place of baselines.{both[0]}"
            raise UserError(f"baselines.{both[0]}", "the name of a wire as well", "different names", remedy)
        out = Evaluation()
        sent = {name: self._messages(name, wire, name in whole_prompt) for name, wire in wires.items()}
        for model, lm in self.lms.items():
            m = self._slots(wires, sent, model, slots)
            for baseline in self.baselines.values():
                for messages in list(sent.values())[:1]:
                    baseline.allow(lm, m, sum(messages.sizes) / len(messages.sizes))
                with torch.enable_grad(), lm.adapters_off():
                    baseline.fit(lm, self.budget, m, self.rivals)
            methods = [row for name, b in self.baselines.items() for row in self._baseline(name, b, lm, m)]
            for name, wire in wires.items():
                methods += self._wire(name, wire, sent[name], model, name in whole_prompt)
            numbers = self._measure(model, lm, methods, out)
            for method in methods:
                self._summarise(method, model, m, numbers[method.name], out)
            for name in wires:
                key = self._key(name, model)
                out.methods[key] |= {
                    "effective_rank": effective_rank(sent[name].values.flatten(1)),
                    "encode_ms": sent[name].encode_ms,
                    **({} if sent[name].send_ms is None else {"send_ms": sent[name].send_ms}),
                }
            texts = {e.passage.text: e.prompt.context for e in self.examples[model]}
            bits = {p.text: p.bits for p in self.passages}
            out.sizes[model] = text_sizes(lm, texts, [bits[t] for t in texts])
        if len(self.lms) > 1:
            self._joint(wires, sent, whole_prompt, out)
        n = len(self.examples[next(iter(self.lms))])
        if n < FEW:
            out.notes.append(f"{n} questions: too few to rank methods by (±5.5 points of F1 even at {FEW}).")
        if any(m.shuffled is None for m in sent.values()):
            out.notes.append("One passage: a wire has no controls and no swap gap.")
        out.tests = paired_tests(self._comparable(out), wires, self.n_boot, self.seed)
        return out

    def _comparable(self, out: Evaluation) -> list[Row]:
        """Return the rows on the track of their model's wires."""
        track = {model: _track(lm, adapters=True) for model, lm in self.lms.items()}
        mine = [r for r in out.rows if r["model"] in track]
        return [r for r in mine if out.methods[self._key(r["method"], r["model"])]["track"] == track[r["model"]]]

    # -- what is read ---------------------------------------------------------------------------------------------
    def _messages(self, name: str, wire: Wire, whole: bool) -> Messages:
        texts, of = texts_of(self.passages, whole)
        sent, shuffled = send(name, wire, texts, of, self.batch_size), None
        if whole and (others := other_texts(self.passages, self.seed)):
            shuffled = send(name, wire, others, [], self.batch_size).values
        elif not whole and len(texts) > 1:
            shuffled = control(sent.values, "shuffled", self.seed)
        return replace(sent, shuffled=shuffled)

    def _slots(self, wires: Mapping[str, Wire], sent: Mapping[str, Messages], model: str, slots: int | None) -> int:
        read = {name: wire.prefix(sent[name].values[:1], model).latents for name, wire in wires.items()}
        found = set(read.values()) | ({slots} if slots is not None else set())
        if len(found) != 1:
            raise UserError(f"M on {model}", f"wires {read}, slots {slots}", "one M", "call run() for each M apart")
        return found.pop()

    def _baseline(self, name: str, baseline: Baseline, lm: FrozenLM, slots: int) -> list[_Method]:
        def read(batch: list[Example]) -> Prefix:
            return baseline.prefix(lm, [e.passage for e in batch], [e.question for e in batch], slots)

        def sent(prefix: Prefix, i: int, e: Example) -> Sent:
            if prefix.text_ids is not None:
                return baseline.sent(lm, tuple(prefix.text_ids[i]))
            known = baseline.message_bytes(lm, slots)
            if known is not None or prefix.embeds is None:
                return Sent(known or 0)
            return Sent(prefix.embeds.shape[1] * lm.d_model * lm.dtype.itemsize)

        own = _Method(name, read, lambda e: baseline.follows(e.prompt), sent, baseline)
        if not (lm.adapted and baseline.adapts):
            return [own]
        return [replace(own, adapters=True), replace(own, name=f"{name}:frozen")]

    def _wire(self, name: str, wire: Wire, sent: Messages, model: str, whole: bool) -> list[_Method]:
        def reader(values: Tensor) -> Callable[[list[Example]], Prefix]:
            def read(batch: list[Example]) -> Prefix:
                messages = [sent.of[e.number] for e in batch]
                needed = sorted(set(messages))  # each message is read once and shared by its questions
                read = wire.prefix(values[torch.tensor(needed, device=values.device)], model)
                return read.select([needed.index(m) for m in messages])

            return read

        def follows(e: Example) -> tuple[int, ...]:
            return e.prompt.cue if whole else e.prompt.question

        def size(prefix: Prefix, i: int, e: Example) -> Sent:
            return Sent(sent.sizes[sent.of[e.number]] - sent.frame, sent.frame)

        found = [_Method(name, reader(sent.values), follows, size, adapters=True, kind="wire")]
        for kind, values in sent.controls(self.seed).items():
            found.append(_Method(f"{name}:{kind}", reader(values), follows, size, adapters=True, kind="control"))
        return found

    # -- measuring ------------------------------------------------------------------------------------------------
    def _measure(self, model: str, lm: FrozenLM, methods: list[_Method], out: Evaluation) -> dict[str, dict[str, Any]]:
        """Add the rows of all methods to `out`; return rows and seconds per method."""
        ordered = sorted(self.examples[model], key=lambda e: (len(e.prompt.context), e.passage.id))
        rows: dict[str, list[Row]] = {m.name: [] for m in methods}
        seconds = {m.name: {"inject": 0.0, "prefill": 0.0, "answer": 0.0} for m in methods}
        for start in range(0, len(ordered), self.batch_size):
            batch = ordered[start : start + self.batch_size]
            with lm.adapters_off():
                text = lm.answer_logprobs(
                    Prefix(text_ids=[e.prompt.context for e in batch]),
                    [e.prompt.question for e in batch],
                    [e.prompt.answer for e in batch],
                )
            teacher = dict(zip([e.number for e in batch], by_example(text), strict=True))
            for method in methods:
                for part in _parts(batch, method.baseline is not None and method.baseline.equal_lengths):
                    rows[method.name] += self._answer(model, lm, method, part, teacher, seconds[method.name])
        for method in methods:
            mine = sorted(rows[method.name], key=lambda r: r["number"])
            if method.kind == "wire" and f"{method.name}:shuffled" in rows:
                wrong = {r["number"]: r["nll"] for r in rows[f"{method.name}:shuffled"]}
                for r in mine:
                    r["swap_gap"] = wrong[r["number"]] - r["nll"]
            rows[method.name] = mine
        for method in methods:
            for r in rows[method.name]:
                del r["number"]
            out.rows += rows[method.name]
        return {m.name: {"rows": rows[m.name], **seconds[m.name]} for m in methods}

    def _answer(
        self,
        model: str,
        lm: FrozenLM,
        method: _Method,
        batch: list[Example],
        teacher: Mapping[int, Tensor],
        seconds: dict[str, float],
    ) -> list[Row]:
        """Let one method answer a batch; return a row per question."""
        follows = [method.follows(e) for e in batch]
        with nullcontext() if method.adapters else lm.adapters_off():
            start = time.perf_counter()
            prefix = method.read(batch)
            prefix.wait()
            seconds["inject"] += time.perf_counter() - start
            decoding = self.decoding
            if decoding is not None and method.kind == "baseline":
                decoding = replace(decoding, gain=None)
            generation = lm.generate_scored(prefix, follows, self.max_new_tokens, decoding)
            seconds["prefill"] += generation.prefill_s
            seconds["answer"] += generation.decode_s
            scored = lm.answer_logprobs(prefix, follows, [e.prompt.answer for e in batch])
        made, nll = generation.tokens, scored.nll().tolist()
        divergence = kl(torch.cat([teacher[e.number] for e in batch]), scored).tolist()
        right, known = right_padded([e.first for e in batch])
        first = first_token(scored, right.masked_fill(~known, -1))
        heads = zip(*(x.tolist() for x in (first.top1, first.top5, first.entropy, first.margin)), strict=True)
        rows = []
        for i, (e, head, tokens) in enumerate(zip(batch, heads, made, strict=True)):
            answer, references = lm.style.decode(tokens), e.question.answers
            answer = answer if self.decoding is None else self.decoding.answer(answer)
            sent = method.sent(prefix, i, e)
            rows.append(
                {
                    "number": e.number,
                    "method": method.name,
                    "model": model,
                    "passage": e.passage.id,
                    "group": e.passage.group,
                    "question": e.question.id,
                    "text": e.question.text,
                    "kind": e.question.kind,
                    "gold": references[0],
                    "prediction": answer,
                    "em": best(exact_match, answer, references),
                    "f1": best(f1, answer, references),
                    "nll": nll[i],
                    **dict(zip(("first_token_top1", "first_token_top5", "entropy", "margin"), head, strict=True)),
                    "kl_to_text": divergence[i],
                    "stopped": float(len(tokens) < self.max_new_tokens),
                    "bytes": sent.payload + sent.frame,
                    "payload": sent.payload,
                    "positions": prefix.positions(i),
                }
            )
        return rows

    # -- numbers --------------------------------------------------------------------------------------------------
    def _key(self, name: str, model: str) -> str:
        return name if len(self.lms) == 1 else f"{name}/{model}"

    def _summarise(self, method: _Method, model: str, slots: int, found: Mapping[str, Any], out: Evaluation) -> None:
        baseline = method.baseline
        remark = "" if baseline is None else baseline.remark
        if method.name.endswith(":frozen"):
            remark += "; the bare model"
        rows, key = found["rows"], self._key(method.name, model)
        out.methods[key] = {
            **summarise(rows, self.n_boot, self.seed),
            "inject_ms": 1000 * found["inject"] / len(rows),
            "prefill_ms": 1000 * found["prefill"] / len(rows),
            "answer_ms": 1000 * found["answer"] / len(rows),
            "M": slots,
            "model": model,
            "kind": method.kind,
            "track": _track(self.lms[model], method.adapters),
            "learned": baseline is None or baseline.track == "trained",
            "fair": baseline is None or baseline.fair,
            "remark": REMARKS[method.name.rpartition(":")[2]] if method.kind == "control" else remark,
        }
        if baseline is not None:
            out.methods[key] |= baseline.told(self.lms[model], slots)
        elif method.kind == "wire" and self.budget is not None:
            out.methods[key] |= {"questions_seen": self.budget.amount.asked}
        out.kinds[key] = by_kind(rows)

    def _joint(
        self, wires: Mapping[str, Wire], sent: Mapping[str, Messages], whole: Collection[str], out: Evaluation
    ) -> None:
        for name, wire in wires.items():
            readers = {
                model: joint.Reader(lm, method.read, method.follows, self.examples[model])
                for model, lm in self.lms.items()
                for method in self._wire(name, wire, sent[name], model, name in whole)[:1]
            }
            answers = {m: [r for r in out.rows if r["method"] == name and r["model"] == m] for m in self.lms}
            spent = max(wire.prefix(sent[name].values[:1], m).latents for m in self.lms)
            for label, rows in joint.choose(name, readers, answers, self.batch_size).items():
                out.rows += rows
                out.methods[label] = {
                    **summarise(rows, self.n_boot, self.seed),
                    "M": spent,
                    "model": "+".join(self.lms),
                    "kind": "oracle" if label.endswith("/oracle") else "joint",
                    "track": "adapted" if any(lm.adapted for lm in self.lms.values()) else "frozen",
                    "learned": True,
                    "fair": not label.endswith("/oracle"),
                    "remark": joint.remark(label),
                    "bytes": sum(sent[name].sizes[m] for m in sent[name].of) / len(sent[name].of),
                    "positions": spent,
                }
                out.kinds[label] = by_kind(rows)


def _track(lm: FrozenLM, adapters: bool) -> str:
    return "adapted" if adapters and lm.adapted else "frozen"


def _parts(batch: list[Example], equal: bool) -> list[list[Example]]:
    if not equal:
        return [batch]
    parts: dict[tuple[int, int], list[Example]] = {}
    for e in batch:
        parts.setdefault((len(e.prompt.context), len(e.prompt.question)), []).append(e)
    return list(parts.values())
