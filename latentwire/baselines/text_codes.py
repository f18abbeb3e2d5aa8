"""Texts in few bytes: coded by the language model itself, or by zstd with a dictionary. Both give the text back."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import zstandard

from callbacks.errors import UserError
from latentwire.codec.arithmetic import ArithmeticDecoder, Cumulative, cumulative, encode, read_symbol
from latentwire.codec.message import CHECKSUM, HEADER
from latentwire.lm.frozen import FrozenLM

MAGIC, VERSION = b"LT", 1  # the count in the header is that of ids
FRAME = HEADER.size + CHECKSUM.size  # bytes around every payload, those of a wire's message
TOTAL = 1 << 26  # of the frequencies of tokens
LEVEL = 19  # of zstd
Ids = Sequence[int]


class TextCoder:
    """Codes token ids with an arithmetic coder on a language model's next-token probabilities: lossless.

    A token takes about -log2 p(token | head, tokens before) bits (Delétang et al., "Language modeling is compression",
    2024). Probabilities become whole frequencies by `arithmetic.cumulative`, the same on both ends if their logits are
    the same to the bit. Kernels are free to round one length of input otherwise than another, so both ends read inputs
    of one shape: the writer all ids at once, the receiver, token by token, what it has so far, filled up with zeros
    that causal attention does not see. Writing takes one forward pass, reading one for each token.

    Limits: both ends on the same machine with the same number of threads, and no model whose attention is not causal.

    Args:
        lm: the model, adapters off.
    """

    def __init__(self, lm: FrozenLM):
        self.lm = lm
        self._identity: bytes | None = None

    @property
    def identity(self) -> bytes:
        """The 32 bytes that both ends share: the model's weights."""
        if self._identity is None:
            self._identity = bytes.fromhex(self.lm.fingerprint())
        return self._identity

    def encode(self, ids: Ids) -> bytes:
        """Turn ids into a payload; their number is not in it. Raises UserError for more than the model's positions."""
        return encode(list(ids), self._tables(ids)) if ids else b""

    def bits(self, ids: Ids) -> list[float]:
        """Return the bits that each token takes, as its frequency says."""
        tables = self._tables(ids) if ids else []
        return [float(np.log2(t[-1] / (t[i + 1] - t[i]))) for i, t in zip(ids, tables, strict=True)]

    def decode(self, payload: bytes, count: int) -> list[int]:
        """Turn a payload back into `count` ids."""
        decoder, found = ArithmeticDecoder(payload), list[int]()
        while len(found) < count:
            table = self._table(self._logits([*found, *[0] * (count - len(found))])[len(found)])
            found.append(read_symbol(decoder, table))
        return found

    def pack(self, ids: Ids) -> bytes:
        """Write a message: header, payload, checksum, as a wire's. Raises UserError for more than 65535 ids."""
        if len(ids) >= 2**16:
            raise UserError("text to code", f"{len(ids)} tokens", "at most 65535", "write several messages")
        body = HEADER.pack(MAGIC, VERSION, self.identity[:4], len(ids)) + self.encode(ids)
        return body + CHECKSUM.pack(zlib.crc32(self.identity + body))

    def unpack(self, message: bytes, where: str = "message") -> list[int]:
        """Read a message. Raises UserError where it is damaged, or another model's."""
        again = "write it again with this model"
        if len(message) < FRAME or message[: len(MAGIC)] != MAGIC:
            raise UserError(where, f"{len(message)} bytes", "a coded text", again)
        _, version, start, count = HEADER.unpack_from(message)
        body, (checksum,) = message[: -CHECKSUM.size], CHECKSUM.unpack(message[-CHECKSUM.size :])
        if version != VERSION or start != self.identity[:4] or zlib.crc32(self.identity + body) != checksum:
            raise UserError(where, "damaged, or coded by another model", f"a text coded by {self.lm.name}", again)
        return self.decode(body[HEADER.size :], count)

    @torch.no_grad()
    def _logits(self, ids: Ids) -> np.ndarray:
        """Return the logits before each of T ids, (T, V) float64; without a head nothing is known of the first."""
        head, lm = list(self.lm.style.head), self.lm
        if len(head) + len(ids) > lm.max_tokens:
            raise UserError(
                "text to code", f"{len(head) + len(ids)} tokens", f"at most {lm.max_tokens} positions of {lm.name}",
                "choose shorter texts (corpus.*) or a reader with more positions (readers=…)",
            )  # fmt: skip
        given = [*head, *ids][:-1]
        found = np.zeros((len(ids), lm.vocab_size))
        if given:
            with lm.adapters_off():
                out = lm.model(input_ids=torch.tensor([given], device=lm.input_device), use_cache=False)
            logits = out.logits[0, max(0, len(head) - 1) :, : lm.vocab_size].double().cpu().numpy()
            found[len(ids) - len(logits) :] = logits
        return found

    def _tables(self, ids: Ids) -> Iterator[Cumulative]:
        return map(self._table, self._logits(ids))

    @staticmethod
    def _table(logits: np.ndarray) -> Cumulative:
        return cumulative(np.exp(logits - logits.max()), TOTAL)


class ZstdCoder:
    """Codes texts by zstd at level 19 with a dictionary trained on other texts, which both ends have.

    Args:
        texts: the training texts.
        size: bytes of the dictionary at most.

    Raises:
        UserError: texts that are too few to train a dictionary on.
    """

    def __init__(self, texts: Sequence[str], size: int = 16384):
        try:
            trained = zstandard.train_dictionary(size, [t.encode() for t in texts])
        except zstandard.ZstdError as error:
            found = f"{len(texts)} training texts: {error}"
            remedy = "set corpus.train=2000, or leave out the baselines with zstd in their names"
            raise UserError("dictionary of zstd", found, "hundreds of texts", remedy) from error
        # without what only tells that it is zstd: the frame around a payload is the same for all codes here
        options = zstandard.ZstdCompressionParameters.from_level(
            LEVEL,
            format=zstandard.FORMAT_ZSTD1_MAGICLESS,
            write_content_size=False,
            write_checksum=False,
            write_dict_id=False,
        )
        self._squeeze = zstandard.ZstdCompressor(dict_data=trained, compression_params=options)
        self._expand = zstandard.ZstdDecompressor(dict_data=trained, format=zstandard.FORMAT_ZSTD1_MAGICLESS)

    def encode(self, text: str) -> bytes:
        """Turn a text into one frame."""
        return self._squeeze.compress(text.encode())

    def decode(self, frame: bytes) -> str:
        """Turn a frame back into the text."""
        return self._expand.decompressobj().decompress(frame).decode()
