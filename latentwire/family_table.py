"""The page of `python -m latentwire.families`: how tiny random models of every family are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import DynamicCache, PreTrainedTokenizerBase

from callbacks.errors import UserError
from callbacks.files.atomic import write_text
from latentwire.injectors.rotary import RotaryPlacement
from latentwire.lm import probe, zoo
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.lora import LoRA

EXACT, REFUSED, WRONG = "exact", "refused", "WRONG"
SHIFT = 7
NATS = 1e-5  # what float32 rounds away
WORDS = tuple(range(20, 32))
PAGE = """# Families of language models

`make families` writes this page: tiny random models built from the configuration classes of transformers, here
{version}, each loaded as a reader. What a row shows is checked again on every model that is loaded, with its own
weights, so that a family that is missing here is read exactly or refused as well.

- exact: in float32 within {nats:g} nats, the root mean square over answer positions and vocabulary.
- **soft**: embeddings in the place of a text, in a batch with padding, and the keys and values that they leave in the
  cache, are read as the text itself is.
- **deep**: a text's keys, taken out of their positions and put {shift} places further on, are read as the text itself
  is.
- **LoRA**: the linear maps that a reader's adapter goes on, all of the attention; each gets a gradient.
- **bf16**: the same in bfloat16, up to its rounding.

{table}
"""


@dataclass(frozen=True)
class Row:
    """Holds what was found for one family; cells are `exact`, `refused` or, for LoRA, names.

    Attributes:
        name: the family.
        soft: soft prefix.
        deep: deep prefix.
        lora: LoRA.
        bf16: all of it in bfloat16.
        reason: why something is refused; empty where nothing is.
    """

    name: str
    soft: str
    deep: str
    lora: str
    bf16: str
    reason: str

    def markdown(self) -> str:
        """Return the row as Markdown."""
        return f"| {self.name} | {self.soft} | {self.deep} | {self.lora} | {self.bf16} | {self.reason} |"


def row(species: zoo.Species, tokenizer: PreTrainedTokenizerBase) -> Row:
    """Measure one family.

    Args:
        species: the family's tiny model.
        tokenizer: `zoo.tokenizer()`.
    """
    soft, deep, reason = _reads(species, tokenizer, torch.float32)
    if soft == REFUSED:
        return Row(species.name, soft, REFUSED, REFUSED, REFUSED, reason)
    half = _reads(species, tokenizer, torch.bfloat16)[:2]
    lm = _load(species, tokenizer, torch.float32)
    if lm.window is not None:
        reason = f"{reason}; positions end with the window" if reason else "positions end with the window"
    bf16 = EXACT if half == (soft, deep) else f"soft {half[0]}, deep {half[1]}"
    return Row(species.name, soft, deep, _adapts(lm), bf16, reason)


def table(rows: Iterable[Row]) -> str:
    """Return rows as a Markdown table."""
    head = "| family | soft | deep | LoRA | bf16 | remark |\n|---|---|---|---|---|---|"
    return "\n".join([head, *(r.markdown() for r in rows)])


@torch.no_grad()
def moved(lm: FrozenLM, placement: RotaryPlacement) -> float:
    """Return how far, in nats, a text is read otherwise once its keys stand `SHIFT` places further on.

    What follows it stands `SHIFT` places further on as well, so that nothing but the numbers of the positions differs.
    """
    ids, asked = (*lm.style.head, *WORDS[:8]), WORDS[8:]
    at = torch.arange(len(ids))
    cache = DynamicCache(config=lm.model.config)
    for layer, (keys, values) in enumerate(lm.keys_and_values(ids)):
        bare = placement.undo(keys.float(), at, layer)
        cache.update(placement.place(bare, at + SHIFT, layer).to(keys), values, layer)
    places = torch.arange(len(ids), len(ids) + len(asked)) + SHIFT
    found = lm.model(input_ids=torch.tensor([asked]), position_ids=places[None], past_key_values=cache, use_cache=True)
    plain = lm.model(input_ids=torch.tensor([[*ids, *asked]]), use_cache=False).logits[:, len(ids) :]
    return float((found.logits.float().log_softmax(-1) - plain.float().log_softmax(-1)).pow(2).mean().sqrt())


def _load(species: zoo.Species, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype) -> FrozenLM:
    return FrozenLM(zoo.build(species, dtype), tokenizer, species.name)


def _reads(species: zoo.Species, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype) -> tuple[str, str, str]:
    try:
        lm = _load(species, tokenizer, dtype)
    except UserError as error:
        return REFUSED, REFUSED, error.found
    measured = probe.measure(lm)
    allowed = NATS if dtype == torch.float32 else measured.allowed
    soft = EXACT if max(measured.found.values()) <= allowed else WRONG
    try:
        placement = RotaryPlacement(lm)
    except UserError as error:
        return soft, REFUSED, f"deep: {error.found}"
    return soft, EXACT if moved(lm, placement) <= allowed else WRONG, ""


def _adapts(lm: FrozenLM) -> str:
    try:
        trained = LoRA(rank=2).apply(lm)
    except UserError as error:
        return f"{REFUSED}: {error.found}"
    lm.answer_logprobs(Prefix(text_ids=[WORDS[:8]]), [WORDS[8:10]], [WORDS[10:]]).nll().sum().backward()
    # the first matrices move once the second ones do
    still = [n for n, p in trained if "lora_B" in n.split(".") and (p.grad is None or not bool((p.grad != 0).any()))]
    names = dict.fromkeys(name.rpartition(".")[2] for projections in lm.anatomy.projections for name in projections)
    return WRONG if still else ", ".join(f"`{n}`" for n in names)


def write(out: Path) -> Path:
    """Measure every family, write `families.md` into a folder, and return its path."""
    transformers.logging.set_verbosity_error()
    tokenizer = zoo.tokenizer()
    rows = [row(species, tokenizer) for species in zoo.SPECIES]
    out.mkdir(parents=True, exist_ok=True)
    page = PAGE.format(table=table(rows), version=transformers.__version__, shift=SHIFT, nats=NATS)
    return write_text(out / "families.md", page)
