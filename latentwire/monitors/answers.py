"""AnswerMonitor: what a wire's readers answer while it trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from callbacks.ranges import Count
from latentwire.data.base import spread
from latentwire.data.squad_metrics import best, contains, exact_match
from latentwire.monitors import records
from latentwire.monitors.base import Monitor
from latentwire.train.module import WireModule
from latentwire.train.validation import Scores


class AnswerMonitor(Monitor):
    """Records answers after validations: the same few questions each time, the commonest answers, and two rates.

    `answers/empty` is the share of answers without a character that is no space, `answers/contains_gold` that of
    answers in which a normalised reference stands as whole words: right, though they do not stop. Both are over all
    questions of the validation, means over models, and with several models also `answers/<rate>/<model>`. Questions
    with context, references and every model's answer, and the commonest answers, each with the number of questions
    that it is the first reference of, are in `inside/answers-<step>.json`; the report shows them.

    Example::

        callbacks:
          answers: {_target_: latentwire.monitors.AnswerMonitor, every: 1, questions: 12, top: 10}

    Limits: answers are those of the validation, so a record costs no more than counting: 1 ms of one core, 0.01 % of an
    epoch of `experiment=pocket_smoke` (11.7 s).

    Args:
        every: the number of validations from one record to the next.
        questions: the number of questions that are recorded, spread evenly over the validation.
        top: the number of commonest answers that are recorded.
    """

    kind = records.ANSWERS

    def __init__(self, every: Count = 1, questions: Count = 12, top: Count = 10):
        super().__init__(every)
        self.questions, self.top = questions, top

    def record(self, module: WireModule, scores: Scores) -> tuple[dict[str, float], records.Record]:
        asked = scores.asked
        golden = [question.answers for _, question in asked]
        rates = {name: rates_of(outputs, golden) for name, outputs in scores.outputs.items()}
        metrics = {key: sum(r[key] for r in rates.values()) / len(rates) for key in next(iter(rates.values()))}
        if len(rates) > 1:
            metrics |= {f"{key}/{name}": value for name, r in rates.items() for key, value in r.items()}
        samples = [
            {
                "text": scores.texts[asked[i][0]],
                "question": asked[i][1].text,
                "gold": list(golden[i]),
                "answers": {name: outputs[i] for name, outputs in scores.outputs.items()},
                "right": {name: best(exact_match, o[i], golden[i]) == 1 for name, o in scores.outputs.items()},
            }
            for i in spread(len(asked), self.questions)
        ]
        models = {
            name: {"n": len(outputs), **rates[name], "top": commonest(outputs, golden, self.top)}
            for name, outputs in scores.outputs.items()
        }
        return metrics, {"samples": samples, "models": models}


def rates_of(outputs: Sequence[str], golden: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the shares of answers that are empty and that contain a reference; `golden`: the references of each."""
    return {
        "empty": sum(not output.strip() for output in outputs) / len(outputs),
        "contains_gold": sum(best(contains, o, g) for o, g in zip(outputs, golden, strict=True)) / len(outputs),
    }


def commonest(outputs: Sequence[str], golden: Sequence[Sequence[str]], n: int) -> list[dict[str, Any]]:
    """Return the n commonest answers with their counts, and the number of questions whose first reference each is.

    Equally common answers stand in the order in which they were first given.
    """
    gold = Counter(references[0] for references in golden)
    return [{"answer": a, "count": count, "gold": gold[a]} for a, count in Counter(outputs).most_common(n)]
