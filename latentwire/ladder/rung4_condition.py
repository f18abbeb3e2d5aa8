"""Rung 4: do the answers depend on the latents, do the latents depend on the text, and do the slots differ?"""

from __future__ import annotations

from callbacks.errors import UserError
from latentwire.ladder import options
from latentwire.ladder.ranks import rank_of, slot_rank
from latentwire.ladder.rung3_overfit import examples
from latentwire.ladder.subject import Subject
from latentwire.ladder.verdict import Check, Verdict, judged
from latentwire.scoring.evaluator import Evaluator
from suite.statistics import bootstrap_interval

N_BOOT = 500
LEAST = 0.5  # two slots that differ have an effective rank of 1, two that do not 0


def condition(subject: Subject, o: options.ConditionOptions, n: int) -> Verdict:
    """Look at the wire that rung 3 has trained, on the n questions that it was trained on.

    Raises:
        UserError: these are about one passage only.
    """
    passages, wire = examples(subject, n), subject.wire
    if len(passages) < 2:
        remedy = f"set ladder.overfit.examples={2 * n}"
        raise UserError("ladder.overfit.examples", f"{n} questions about one passage", "two passages at least", remedy)
    checks = []
    for name, lm in subject.lms.items():
        evaluator = Evaluator(
            {name: lm}, passages, {}, int(subject.cfg.evaluation.max_new_tokens), int(subject.cfg.seed), n_boot=2
        )
        found = evaluator.run({"wire": wire}, whole_prompt=["wire"] if subject.whole else [])
        rows = [r for r in found.rows if r["method"] == "wire"]
        gap = bootstrap_interval([r["swap_gap"] for r in rows], [r["group"] for r in rows], N_BOOT, 0)
        low = gap.low
        distinct = found.methods["wire"]["distinct"]
        label = subject.label("swap gap, lower end", name)
        checks += [
            Check(label, low, low=o.gap,
                  found=f"with another text's latents {name} answers as well: NLL(wrong) - NLL(right) is "
                  f"{gap.estimate:.3g} nats per token (lower end {low:.3g})",
                  remedy="the latents are not used: add objective=mismatch_hinge, ask several questions per context "
                  "(loader.questions), or check that passages differ (corpus.*)"),
            Check(subject.label("swap gap", name), gap.estimate),
            Check(subject.label("different answers / different gold answers", name), distinct, low=o.distinct,
                  found=f"{name} says the same to different questions ({distinct:.2f})",
                  remedy="collapse: train on whole answers (objective=[answer_ce]) before other terms, lower their "
                  "weights (objectives.*.weight), lower group_lr.*"),
        ]  # fmt: skip
    values = wire.encode([subject.message(p, p.questions[0]) for p in passages]).float().cpu()
    rank = rank_of(values.flatten(1))
    checks.append(
        Check("effective rank of the latents over texts", rank, low=min(o.rank, len(passages) - 1),
              found=f"the latents of {len(passages)} texts have an effective rank of {rank:.3g}: all texts look alike",
              remedy="the encoder ignores its text: check encoder.pooling, raise group_lr.encoder and wire.d_z")
    )  # fmt: skip
    if wire.slots > 1:
        slots, least = slot_rank(values), max(o.slot_rank * (wire.slots - 1), LEAST)
        checks.append(
            Check("effective rank of a message's slots", slots, low=least,
                  found=f"the {wire.slots} slots of a message have an effective rank of {slots:.3g} of "
                  f"{wire.slots - 1}: the same vector again and again",
                  remedy="pool the text in parts (encoder.pooling: chunk_mean, hierarchical, cross_attention), not its "
                  "mean repeated; a mean has a high cosine and no skill")
        )  # fmt: skip
    return judged(4, checks)
