"""Two readers of one message: candidates and scores as a slow loop has them, and private slots nobody else reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lw_runs import config, fit
from torch import Tensor

from callbacks.errors import UserError
from latentwire import two_readers
from latentwire.data.squad_metrics import best, exact_match, f1, normalize
from latentwire.encoders.slots import LatentLayout
from latentwire.leakage import Shown, explained, leakage, shows, slots_of, translator
from latentwire.lm.prompts import render
from latentwire.report.two_readers import tables
from latentwire.restore import Loaded, load
from latentwire.scoring import opinions
from latentwire.scoring.candidates import Candidates, gather
from suite.report import markdown
from suite.runs.identity import run_dir

LAYOUT = LatentLayout(2, {"a": 1, "b": 2})


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A wire of two tiny readers with private slots, trained for a few steps."""
    cfg = config(tmp_path_factory.mktemp("two"), "wire.slots=4", "wire.private={tiny_llama:1,tiny_qwen2:1}",
                 "trainer.max_epochs=1", lms=("llama", "qwen2"))  # fmt: skip
    fit(cfg)
    told = {"status": "finished", "hash": run_dir(cfg).name}
    (run_dir(cfg) / "result.json").write_text(json.dumps(told), encoding="utf-8")
    return load(run_dir(cfg))


def test_candidates_are_what_all_readers_propose_and_scores_those_of_their_whole_text(loaded: Loaded) -> None:
    passages = [loaded.inputs.corpus.split("test")[i] for i in range(2)]
    readers = two_readers.readers_of(loaded, passages)
    found = gather(readers, 2, 3, batch_size=3)
    assert found.scores.shape == (2, sum(len(p.questions) for p in passages), max(map(len, found.texts)))
    number = 0
    for p in passages:
        values = loaded.wire.encode([p.text])
        for q in p.questions:
            row = found.texts[number]
            assert len(row) == len({normalize(t) for t in row}) == int(found.mask[number].sum())
            for j, (name, lm) in enumerate(loaded.inputs.lms.items()):
                prefix = loaded.wire.prefix(values, name)
                asked = [render(lm.style, p.text, q.text, "x").question]
                greedy = lm.style.decode(lm.generate(prefix, asked, 3)[0])
                assert normalize(row[int(found.own[j, number])]) == normalize(greedy)
                for c, text in enumerate(row):
                    ids = render(lm.style, p.text, q.text, text).answer
                    nll = float(lm.answer_logprobs(prefix, asked, [ids]).nll()[0].detach()) * len(ids)
                    assert float(found.scores[j, number, c]) == pytest.approx(-nll, rel=1e-4)
            for c, text in enumerate(row):
                assert bool(found.right[number, c]) == bool(best(exact_match, text, q.answers))
                assert float(found.f1[number, c]) == pytest.approx(best(f1, text, q.answers))
            number += 1


def candidates(scores: Tensor, right: Tensor) -> Candidates:
    """Candidates of which each reader says the one that it scores highest."""
    n, c = right.shape
    texts = [[f"{i} {k}" for k in range(c)] for i in range(n)]
    mask, groups = torch.ones(n, c, dtype=torch.bool), [str(i) for i in range(n)]
    return Candidates(["a", "b"], texts, scores, mask, right, right.double(), scores.argmax(2), groups)


def test_a_sure_reader_outvotes_one_that_guesses_and_the_rows_say_so() -> None:
    generator = torch.Generator().manual_seed(0)
    right = torch.arange(3) == torch.randint(0, 3, (200, 1), generator=generator)
    noise = torch.randn(2, 200, 3, generator=generator, dtype=torch.double)
    # a is right in nine of ten and says how sure it is; b guesses, ten times as loud
    scores = torch.stack([4 * right + 1.8 * noise[0], 10 * (0.3 * right + noise[1])])
    half = slice(0, 100), slice(100, 200)
    val, test = (candidates(scores[:, part], right[part]) for part in half)
    found = two_readers.judge(val, test, n_boot=40)
    rows = {r["name"]: r for r in found["rows"]}
    assert found["temperatures"]["b"] > 5 > found["temperatures"]["a"]
    assert rows["b"]["em"] < 0.6 < 0.8 < rows["a"]["em"]
    assert rows["b"]["calibration_error"] < rows["b"]["uncalibrated_error"]
    loud = opinions.pooled(opinions.probabilities(test.scores, test.mask), test.mask, "product").argmax(1)
    assert rows["product"]["em"] > float(test.right.gather(1, loud[:, None]).double().mean()) + 0.1, (
        "calibration counts"
    )
    own = [test.right.gather(1, test.own[j][:, None])[:, 0] for j in range(2)]
    assert found["oracle"]["em"] == pytest.approx(float((own[0] | own[1]).double().mean()))
    assert found["oracle"]["em"] >= max(r["em"] for n, r in rows.items() if n in "ab")
    assert rows["a"]["at"]["0.5"] >= rows["a"]["em"], "abstaining pays"
    same = test.own[0] == test.own[1]
    assert found["agreement"]["share"] == pytest.approx(float(same.double().mean()))
    assert found["agreement"]["em"] == pytest.approx(float(own[0][same].double().mean()))


def test_validation_alone_decides_temperatures_and_thresholds() -> None:
    generator = torch.Generator().manual_seed(1)
    right = torch.arange(3) == torch.randint(0, 3, (60, 1), generator=generator)
    scores = torch.randn(2, 60, 3, generator=generator, dtype=torch.double) + right
    val = candidates(scores[:, :30], right[:30])
    found = [two_readers.judge(val, candidates(s, right[30:]), 40) for s in (scores[:, 30:], 3 * scores[:, 30:])]
    assert found[0]["temperatures"] == found[1]["temperatures"]
    levels = [[t["threshold"] for t in f["thresholds"]] for f in found]
    assert levels[0] == levels[1]


def test_nobody_reads_the_private_slots_of_another(loaded: Loaded) -> None:
    wire = loaded.wire
    values = wire.encode([loaded.inputs.corpus.split("test")[0].text])
    changed = values.clone()
    changed[:, slots_of(wire.layout, "tiny_qwen2")] += 1.0
    before, after = (wire.prefix(v, "tiny_llama").kv for v in (values, changed))
    assert before is not None
    assert after is not None
    assert all(torch.equal(x, y) for a, b in zip(before, after, strict=True) for x, y in zip(a, b, strict=True))
    theirs = [wire.prefix(v, "tiny_qwen2").kv for v in (values, changed)]
    assert not torch.equal(theirs[0][-1][1], theirs[1][-1][1])  # type: ignore[index]


def test_what_a_reader_is_given_is_what_its_name_says() -> None:
    generator = torch.Generator().manual_seed(0)
    seen, values = torch.randn(50, 5, 4, generator=generator), torch.randn(3, 5, 4, generator=generator)
    assert [slots_of(LAYOUT, name) for name in ("shared", "a", "b", "c")] == [
        slice(0, 2),
        slice(2, 3),
        slice(3, 5),
        slice(0, 0),
    ]
    given = {name: show(values) for name, show in shows(LAYOUT, "a", seen).items()}
    assert torch.equal(given["whole"], values[:, [0, 1, 2]])
    assert torch.equal(given["shared alone"][:, :2], values[:, :2])
    assert torch.equal(given["shared alone"][:, 2:], seen[:, 2:3].mean(0).expand(3, -1, -1))
    assert torch.equal(given["slots of b"][:, :2], seen[:, :2].mean(0).expand(3, -1, -1))
    assert torch.equal(given["slots of b"][:, 2:], values[:, 3:5])
    assert given["slots of b, translated"].shape == (3, 3, 4)
    assert list(shows(LatentLayout(2, {"a": 0, "b": 2}), "a", seen[:, :4])) == ["whole", "slots of b"]


def test_the_map_finds_what_is_linear_and_nothing_where_nothing_is() -> None:
    generator = torch.Generator().manual_seed(0)
    theirs, mix = torch.randn(300, 2, 4, generator=generator), torch.randn(8, 4, generator=generator)
    own = (theirs.flatten(1) @ mix + 1.0).unsqueeze(1)
    turned = translator(theirs[:200], own[:200])
    assert explained(own[200:].flatten(1), turned(theirs[200:]).flatten(1)) > 0.99
    alone = torch.randn(300, 1, 4, generator=generator)
    turned = translator(theirs[:200], alone[:200])
    assert explained(alone[200:].flatten(1), turned(theirs[200:]).flatten(1)) < 0.1


def test_every_reader_is_asked_with_what_it_reads_and_with_the_slots_of_the_other(loaded: Loaded) -> None:
    passages = [loaded.inputs.corpus.split("test")[i] for i in range(2)]
    rows = {(r["reader"], r["name"]): r for r in leakage(loaded, passages, 0)}
    assert set(rows) == {
        (reader, name)
        for reader, other in (("tiny_llama", "tiny_qwen2"), ("tiny_qwen2", "tiny_llama"))
        for name in ("whole", "shared alone", f"slots of {other}", f"slots of {other}, translated")
    }
    assert all(r["latents"] == 3 for r in rows.values())
    assert rows["tiny_llama", "slots of tiny_qwen2, translated"]["explained"] is not None
    assert Shown(loaded.wire, lambda v: v).slots == 4


def test_the_page_has_every_way_to_answer_and_what_cannot_be_told_is_refused(loaded: Loaded, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    right = torch.arange(3) == torch.randint(0, 3, (40, 1), generator=generator)
    told = candidates(torch.randn(2, 40, 3, generator=generator, dtype=torch.double) + right, right)
    slots = [{"reader": "a", "name": "whole", "latents": 3, "f1": 0.5, "f1_low": 0.4, "f1_high": 0.6, "f1_other": 0.1,
              "swap_gap": 1.0, "explained": None, "leak": None}]  # fmt: skip
    page = markdown(tables({**two_readers.judge(told, told, 40), "leakage": slots, "adversary": 0}))
    assert all(name in page for name in ("oracle (unfair)", "product", "mean", "Abstention", "Private slots"))
    with pytest.raises(UserError, match="no question with a right candidate and a wrong one"):
        two_readers.measure(loaded, 1, 2)
    cfg = config(tmp_path, "trainer.max_epochs=1")
    fit(cfg)
    with pytest.raises(UserError, match="one reader, tiny_llama"):
        two_readers.measure(load(run_dir(cfg)), 1, 2)
