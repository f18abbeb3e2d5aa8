"""Which pooling keeps the answer, before any reader is asked: `python -m latentwire.study sequence_compression`.

A text's own embeddings, with their places, are pooled to one latent per four tokens and given back as one embedding per
token, which a frozen pocket reader reads in the place of the text: what is measured is what pooling keeps, and not how
a reader learns to read latents. Six poolings are trained on pure reconstruction, each token against its own embedding.
Two objectives ask for it in two ways:

    by place    token t from the slot whose chunk it lies in
    by message  token t from all slots, by attention

Every pooling is trained under both, and judged under the one at which validation's cosine is higher. Beside them,
trained on nothing, the text's mean at every token and the mean of each chunk at its tokens: a target that all poolings
can share, and that says nothing. Three quarters of an hour of a core, resumable; it writes
docs/results/sequence_compression.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.files.atomic import write_text
from callbacks.stages.lr import LRSchedule
from latentwire.baselines.training import MAX_NORM
from latentwire.cells import against, cell, ends, f1, mean, tuned
from latentwire.data.biographies import Biographies
from latentwire.encoders.pool_expand import PoolExpand
from latentwire.encoders.pooling import (
    ChunkMean,
    CrossAttention,
    Hierarchical,
    Pooling,
    StridedConv,
    chunk_mean,
    unchunk,
)
from latentwire.encoders.transformer import Attention, feed_forward
from latentwire.encoders.transport import TransportPlan
from latentwire.examples import Example, context_ids
from latentwire.lm.frozen import FrozenLM
from latentwire.objectives.reconstruction import embedding_loss
from latentwire.page.scores import points
from latentwire.pocket import load
from latentwire.reader_study import enough, trained_parser
from latentwire.report.evaluation_tables import percent
from latentwire.token_code import Texts, measured
from latentwire.train.stream import Stream
from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, markdown, number, texts
from suite.runs.command import command

PAGE = Path("docs/results/sequence_compression.md")
PASSAGES, VALIDATION = 40, 16
OUT_OF = 20  # test texts, of which one is of the right length
STEPS, CONTEXTS, VALIDATIONS = 1500, 8, 5
WARMUP = 20  # steps
RATES = (1e-3, 3e-3, 1e-2)
RATIO, WIDTH, D_Z = 4, 128, 64
HALF = 0.5  # of the answers: what keeps fewer is not said to keep them
PLACE, MESSAGE, NONE = "by place", "by message", "nothing is trained"
POOLINGS: dict[str, Callable[..., Pooling]] = {
    "chunk_mean": ChunkMean,
    "strided_conv": StridedConv,
    "hierarchical": Hierarchical,
    "transport": TransportPlan,
    "pool_expand": PoolExpand,
    "cross_attention": CrossAttention,
}
WHOLE, CHUNKS = "the text's mean", "each chunk's mean"
KEYS = (*product(POOLINGS, (PLACE, MESSAGE)), (WHOLE, NONE), (CHUNKS, NONE))
Key = tuple[str, str]  # pooling and objective
Found = Mapping[Key, Mapping[int, Mapping[str, Any]]]  # by seed
HEAD = """# Which pooling keeps the answer?

Written by `python -m latentwire.study sequence_compression`, none of it by hand; started again, only what is missing is
computed. Texts of about 50 tokens (biographies of two people) are pooled to one latent of {d_z} numbers per {ratio}
tokens and given back as one embedding per token, which a frozen reader reads in the place of the text: {passages} test
passages, {questions} questions. Trained on pure reconstruction, {steps} steps of {contexts} texts, {seeds} seeds, kept
at the best cosine of validation; steps and width are those of all rows, and each has the learning rate of
{rates} at which validation's cosine is highest with its first seed. *By place*: a token is asked back from the
slot of its chunk; *by message*: from all slots, by attention. A pooling is judged under the one of higher cosine in
validation (bold). Cosine: with a token's own embedding;
nearest: tokens of whose vocabulary their own lies nearest. F1: 95 % bootstrap over seeds and passages; differences are
to `chunk_mean` by place, paired by seed and question.
"""


class PooledCode(nn.Module):
    """Pools embeddings with their places to slots, and gives an embedding back for each token.

    Args:
        lm: the reader, whose embeddings are sent and given back.
        pooling: factory of the pooling.
        objective: `by place`, or `by message`.
        length: tokens of every text.
        scale: RMS of the embeddings.
    """

    def __init__(self, lm: FrozenLM, pooling: Callable[..., Pooling], objective: str, length: int, scale: float):
        super().__init__()
        self.lm, self.length, self.scale = lm, length, scale
        self.slots = round(length / RATIO)
        self.chunk = -(-length // self.slots)
        self.project, self.place = nn.Linear(lm.d_model, WIDTH), nn.Parameter(0.5 * torch.randn(length, WIDTH))
        self.mix, self.pooling = feed_forward(WIDTH), pooling(d=WIDTH, slices=1)
        self.narrow, self.widen = nn.Linear(WIDTH, D_Z), nn.Linear(D_Z, WIDTH)
        self.deepen = feed_forward(WIDTH)
        self.by_place = objective == PLACE
        if self.by_place:
            self.out = nn.Linear(WIDTH, self.chunk * lm.d_model)
        else:
            self.asks = nn.Parameter(0.5 * torch.randn(length, WIDTH))
            self.slot = nn.Parameter(0.5 * torch.randn(self.slots, WIDTH))
            self.attention, self.then = Attention(WIDTH, 4), feed_forward(WIDTH)
            self.out = nn.Linear(WIDTH, lm.d_model)

    def encode(self, own: Tensor) -> Tensor:
        """Return the latents (B, slots, D_Z) of embeddings (B, T, d_model)."""
        x = self.project(own / self.scale) + self.place
        x = x + self.mix(x)
        mask = torch.ones(x.shape[:2], dtype=torch.bool)
        found: Tensor = self.narrow(self.pooling(x, mask, [self.slots]))
        return found

    def forward(self, ids: Tensor) -> Tensor:
        """Return embeddings (B, T, d_model) of texts (B, T)."""
        z = self.widen(self.encode(self.lm.embed(ids).float()))
        h = z + self.deepen(z)
        if self.by_place:
            lengths = torch.full((len(ids),), self.length)
            return unchunk(self.out(h).unflatten(2, (self.chunk, -1)), lengths) * self.scale
        y = self.asks + self.attention(self.asks.expand(len(ids), -1, -1), h + self.slot)
        found: Tensor = self.out(y + self.then(y)) * self.scale
        return found


def embeds(code: Callable[[Tensor], Tensor], asked: Sequence[Example]) -> Tensor:
    """Return what a reader gets of examples of one length."""
    return code(torch.tensor([e.prompt.context for e in asked]))


def repeated(lm: FrozenLM, chunks: int, ids: Tensor) -> Tensor:
    """Return the mean of each of so many chunks at all of its tokens: (B, T) -> (B, T, d_model)."""
    lengths = torch.full((len(ids),), ids.shape[1])
    return unchunk(chunk_mean(lm.embed(ids).float(), lengths, chunks).unsqueeze(2), lengths)


def learn(lm: FrozenLM, code: PooledCode, data: Texts, steps: int, lr: float, seed: int) -> dict[str, Any]:
    """Train a code on reconstruction, and leave it as it was at its best validation.

    Args:
        lm: the reader.
        code: what is trained.
        data: what it learns from.
        steps: number of steps.
        lr: learning rate of Adam, before a cosine with warm-up.
        seed: seed of the stream of passages.

    Returns:
        `step` and `cosine` of the best validation.
    """
    optimiser = torch.optim.Adam(code.parameters(), lr)
    rate = LRSchedule("cosine", warmup_steps=min(WARMUP, steps // 4))(optimiser, steps, 1)
    held = _ids({e.passage.id: e.passage for e in data.val}.values(), lm)
    best: dict[str, Any] = {"step": 0, "cosine": -1.0}
    kept: dict[str, Tensor] = {}
    stream = Stream(data.train, 1, seed, steps * CONTEXTS)
    for t, (passages, _) in zip(range(1, steps + 1), stream.batches(CONTEXTS), strict=False):
        ids = _ids(passages, lm)
        own = lm.embed(ids).float()
        loss, _ = embedding_loss(code(ids).flatten(0, 1) / code.scale, own.flatten(0, 1) / code.scale, 1.0, 0.1)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(code.parameters(), MAX_NORM)
        optimiser.step()
        rate.step()
        if t % max(1, steps // VALIDATIONS) == 0:
            code.eval()
            with torch.no_grad():
                cosine = float(nn.functional.cosine_similarity(code(held), lm.embed(held).float(), dim=-1).mean())
            code.train()
            if cosine > best["cosine"]:
                best = {"step": t, "cosine": cosine}
                kept = {name: x.detach().clone() for name, x in code.state_dict().items()}
    code.load_state_dict(kept)
    code.eval()
    return best


def _ids(passages: Any, lm: FrozenLM) -> Tensor:
    return torch.tensor([context_ids(lm, p, p.questions[0]) for p in passages])


def compute(lm: FrozenLM, data: Texts, key: Key, steps: int, lr: float, seed: int) -> dict[str, Any]:
    """Train and test one cell; means of the text are tested as they are."""
    pooling, objective = key
    ids = _ids(data.train[:64], lm)
    if objective == NONE:
        chunks = 1 if pooling == WHOLE else round(ids.shape[1] / RATIO)
        return measured(lm, data.test, partial(embeds, partial(repeated, lm, chunks)))
    torch.manual_seed(seed)
    code = PooledCode(lm, POOLINGS[pooling], objective, ids.shape[1], float(lm.embed(ids).float().pow(2).mean().sqrt()))
    told = {"val": learn(lm, code, data, steps, lr, seed), "parameters": sum(p.numel() for p in code.parameters())}
    with torch.no_grad():
        return measured(lm, data.test, partial(embeds, code)) | told


def measure(
    lm: FrozenLM,
    folder: Path,
    passages: int,
    seeds: Sequence[int],
    steps: int,
    rates: Sequence[float],
    keys: Sequence[Key],
) -> tuple[Found, list[str]]:
    """Compute every cell that is not there; return all, and the passage of each test question.

    Args:
        lm: the reader.
        folder: where cells lie.
        passages: number of test passages.
        seeds: seeds of codes and streams.
        steps: steps of every training.
        rates: learning rates that every trained row chooses from (`tuned`).
        keys: the rows.
    """
    data = Texts.of(lm, Biographies(people=2, facts_per_person=3, test=OUT_OF * passages), VALIDATION, passages)

    def kept(key: Key, lr: float, seed: int) -> dict[str, Any]:
        told = {"reader": lm.fingerprint(), "pooling": key[0], "objective": key[1], "seed": seed, "passages": passages}
        told |= {"out of": OUT_OF, "ratio": RATIO}
        trained = {"steps": steps, "lr": lr, "validation": VALIDATION, "validations": VALIDATIONS, "warmup": WARMUP}
        told |= {"steps": 0} if key[1] == NONE else {**trained, "contexts": CONTEXTS, "width": WIDTH, "d_z": D_Z}
        return cell(folder, told, partial(compute, lm, data, key, steps, lr, seed))

    def row_of(key: Key) -> dict[int, dict[str, Any]]:
        if key[1] == NONE:
            return {seeds[0]: kept(key, 0.0, seeds[0])}  # means know no chance
        return tuned(rates, seeds, partial(kept, key), lambda c: (c["val"]["cosine"],))

    found = {key: row_of(key) for key in keys}
    return found, [e.passage.group for e in data.test]


def chosen(found: Found) -> dict[str, Key]:
    """Return the objective under which each pooling has the higher cosine in validation, a mean over seeds."""

    def cosine(key: Key) -> float:
        return sum(c["val"]["cosine"] for c in found[key].values()) / len(found[key])

    trained = [key for key in found if key[1] != NONE]
    return {pooling: max((k for k in trained if k[0] == pooling), key=cosine) for pooling, _ in trained}


def verdict(found: Found, groups: Sequence[str]) -> str:
    """Say which pooling keeps most answers, each under what suits it, and what the objective is worth to each."""
    own = chosen(found)
    scores = {pooling: f1(found[key], groups) for pooling, key in own.items()}
    best = max(scores, key=lambda p: scores[p].estimate)
    near: list[str] = []
    behind: list[str] = []
    for pooling, key in own.items():
        if pooling != best:
            where = behind if against(found[key], found[own[best]], groups).high < 0 else near
            where.append(f"`{pooling}` {key[1]} ({scores[pooling].estimate * PERCENT:.1f} %)")
    told = "" if scores[best].high >= HALF else "In so many steps no pooling keeps half of the answers. "
    told += f"`{best}` {own[best][1]} keeps most answers, F1 {scores[best].estimate * PERCENT:.1f} %"
    told += f"; not told apart from it: {', '.join(near)}" if near else ""
    told += f"; behind it: {', '.join(behind)}" if behind else ""
    sides: dict[str, list[str]] = {PLACE: [], MESSAGE: []}
    for pooling in own:
        if all((pooling, objective) in found for objective in sides):
            d = against(found[pooling, PLACE], found[pooling, MESSAGE], groups)
            if d.low > 0 or d.high < 0:
                sides[PLACE if d.low > 0 else MESSAGE].append(f"`{pooling}` ({points(d)})")
    for objective, gained in sides.items():
        told += f". Asking {objective} is better for {', '.join(gained)}, place minus message" if gained else ""
    if (WHOLE, NONE) in found:
        cell_ = found[WHOLE, NONE]
        told += f". The text's mean at every token has a cosine of {mean(cell_, 'cosine'):.2f} with them"
        told += f" and F1 {f1(cell_, groups).estimate * PERCENT:.1f} %"
    return f"**Verdict.** {told}.\n"


def table(found: Found, groups: Sequence[str], rates: Sequence[float]) -> Table:
    """Show all rows, the objective that each pooling is judged under in bold."""
    lines: list[list[Cell]] = []
    strong: set[int] = set()
    base, own = ("chunk_mean", PLACE), set(chosen(found).values())
    for key, cells in found.items():
        got, delta = f1(cells, groups), Cell(ABSENT)
        if key != base and base in found and key[1] != NONE:
            delta = Cell(points(against(found[key], found[base], groups)))
        if key in own:
            strong.add(len(lines))
        one = next(iter(cells.values()))
        trained, lr = one.get("parameters", 0), one.get("lr")
        close = [number(mean(cells, "cosine"), 3), number(mean(cells, "nearest") * PERCENT, 1)]
        row = [*texts(*key), *close, percent(got.estimate, got.low, got.high), delta, number(mean(cells, "nll"), 3)]
        row += [*texts(f"{lr:g}" if lr else ABSENT), Cell(f"{trained:,}", trained)]
        lines.append([*row, *texts(len(cells) if trained else ABSENT)])
    titles = ["cosine", "nearest\n%", "F1 %\n[95 %]", "Δ F1 to\nchunk_mean", "NLL\nnats/token", "rate", "parameters"]
    note = ["Bold: the objective that a pooling is judged under."]
    note += ends({f"{pooling} {objective}": cells for (pooling, objective), cells in found.items()}, rates)
    return Table("", columns("pooling", "reconstruction", numbers=[*titles, "seeds"]), lines, note, strong)


def page(found: Mapping[str, tuple[Found, Sequence[str]]], passages: int, steps: int, rates: Sequence[float]) -> str:
    """Return the page of what was found by reader."""
    first, groups = next(iter(found.values()))
    told: dict[str, Any] = {
        "steps": steps,
        "contexts": CONTEXTS,
        "d_z": D_Z,
        "ratio": RATIO,
        "seeds": max(map(len, first.values())),
    }
    told |= {"rates": ", ".join(f"{rate:g}" for rate in rates)}
    parts = [HEAD.format(passages=passages, questions=len(groups), **told)]
    for reader, (cells, own) in found.items():
        parts += [f"## `{reader}`\n", verdict(cells, own), markdown([table(cells, own, rates)])]
    return "\n".join(parts)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    p = trained_parser("sequence_compression", __doc__, PAGE, PASSAGES, STEPS, RATES)
    args = p.parse_args(argv)
    enough(args)
    folder, found = args.runs / "sequence_compression", {}
    for name in args.readers:
        found[name] = measure(load(name), folder, args.passages, args.seeds, args.steps, args.rates, KEYS)
    print(f"page: {write_text(args.out, page(found, args.passages, args.steps, args.rates))}")
    return 0
