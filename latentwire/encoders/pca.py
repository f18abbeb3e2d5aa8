"""Encoder without training: principal components of chunks of token embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from callbacks.errors import UserError
from callbacks.ranges import Count, Width
from latentwire.adapters.calibration import AT_ONCE
from latentwire.encoders.base import Encoder, Overflow, Tokens
from latentwire.encoders.pooling import chunk_borders, unchunk
from latentwire.encoders.slots import SHARED, LatentLayout
from latentwire.lm.frozen import FrozenLM


def check_chunk(d_z: int, chunk: int, width: int) -> int:
    """Return how many numbers a chunk of embeddings of this width has.

    Raises:
        UserError: fewer than a latent.
    """
    size = chunk * width
    if d_z > size:
        expected, remedy = f"d_z at most chunk * {width} = {size}", f"set encoder.chunk={max(1, -(-d_z // width))}"
        raise UserError("wire.d_z, encoder.chunk", f"{d_z}, {chunk}", expected, remedy)
    return size


class PCAEncoder(Encoder):
    """Encodes without training: principal components of chunks of embeddings.

        z_j = C (e_j - mean) / scale,   e_j the embeddings of the at most `chunk` tokens of chunk j, concatenated

    Chunks are those of mean pooling (`chunk_borders`); places that a chunk does not fill hold the mean. C (d_z rows)
    are the first principal components of the chunks of the texts given to `fit`, scale the RMS of the embeddings. No
    parameter, everything is state: mean, components, scale, explained share. All models read the same slots.

    Args:
        lm: language model whose tokenizer and embeddings are used.
        d_z: width of a latent, at most chunk * d_model.
        chunk: largest number of tokens per slot; a text has at most slots * chunk tokens.
        max_tokens: longest text, in tokens.
        overflow: what happens to a longer one, `refuse` or `count`.
    """

    lm: FrozenLM
    mean: Tensor
    components: Tensor
    scale: Tensor
    explained: Tensor
    fitted: Tensor

    def __init__(
        self, lm: FrozenLM, d_z: Width, chunk: Width = 4, max_tokens: Count = 512, overflow: Overflow = "refuse"
    ):
        super().__init__(d_z, max_tokens, overflow)
        size = check_chunk(d_z, chunk, lm.d_model)
        self.lm, self.chunk = lm, chunk
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("components", torch.zeros(d_z, size))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("explained", torch.zeros(()))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def ids(self, text: str) -> Sequence[int]:
        return self.lm.style.encode(text)

    @torch.no_grad()
    def fit(self, texts: Sequence[str], layout: LatentLayout) -> None:
        """Find mean and components on the chunks of training texts.

        Exact eigenvectors in float64 of the smaller of covariance and Gram matrix: memory grows with the square of
        min(chunks, chunk * d_model), and no more with the number of texts. A component's largest entry is positive, so
        a fit is reproducible.

        Raises:
            UserError: fewer than d_z + 1 chunks.
        """
        batches = [self.tokenize(texts[i : i + AT_ONCE]).to(self.mean.device) for i in range(0, len(texts), AT_ONCE)]
        chunks = len(texts) * layout.slots
        if chunks <= self.d_z:
            raise UserError(
                "texts to fit on", f"{chunks} chunks", f"more than d_z = {self.d_z}", "set wire.measured_texts=256"
            )
        # looking embeddings up twice costs less than all of them at once would take
        sums, filled, squares = torch.zeros(3, len(self.mean), dtype=torch.float64, device=self.mean.device)
        for x, inside in self._rows(batches, layout):
            sums += x.sum(0)
            filled += inside.sum(0)
            squares += x.pow(2).sum(0)
        mean = sums / filled.clamp(min=1)
        centred = ((x - mean) * inside for x, inside in self._rows(batches, layout))
        if chunks < len(mean):
            rows = torch.cat(list(centred))
            values, left = torch.linalg.eigh(rows @ rows.T)
            order = values.argsort(descending=True)[: self.d_z]
            components = torch.nn.functional.normalize((rows.T @ left[:, order]).T, dim=1)
        else:
            covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)
            for part in centred:
                covariance.addmm_(part.T, part)
            values, vectors = torch.linalg.eigh(covariance)
            order = values.argsort(descending=True)[: self.d_z]
            components = vectors[:, order].T
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        components = components * torch.where(largest < 0, -1.0, 1.0)
        self.mean.copy_(mean)
        self.components.copy_(components)
        self.scale.copy_((squares.sum() / filled.sum()).sqrt())
        self.explained.copy_(values[order].clamp(min=0).sum() / (squares - sums.pow(2) / filled.clamp(min=1)).sum())
        self.fitted.fill_(True)

    def forward(self, tokens: Tokens, layout: LatentLayout) -> Tensor:
        self._must_be_fitted()
        x, inside = self._chunks(tokens, layout)
        return ((x - self.mean) * inside) @ self.components.T / self.scale

    def reconstruct(self, z: Tensor, lengths: Tensor) -> Tensor:
        """Turn latents (B, M, d_z) of texts of `lengths` (B,) tokens into embeddings (B, T, d_model), then zeros."""
        self._must_be_fitted()
        x = (z * self.scale @ self.components + self.mean).unflatten(2, (self.chunk, -1))  # (B, M, chunk, d_model)
        beyond = torch.arange(int(lengths.max()), device=z.device) >= lengths.unsqueeze(1)
        return unchunk(x, lengths).masked_fill(beyond.unsqueeze(2), 0.0)

    def _rows(self, batches: Sequence[Tokens], layout: LatentLayout) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the chunks (n, chunk * d_model) of each batch, and which of their numbers are filled; float64."""
        for tokens in batches:
            x, inside = self._chunks(tokens, layout)
            yield x.flatten(0, 1).double(), inside.flatten(0, 1).double()

    def _chunks(self, tokens: Tokens, layout: LatentLayout) -> tuple[Tensor, Tensor]:
        """Return the chunks' embeddings (B, M, chunk * d_model), zero where empty, and which are filled (bool)."""
        if any(name != SHARED for name, _ in layout.parts):
            raise UserError(
                "wire.private", str(dict(layout.parts)), "shared slots only: pca has no others", "set wire.private={}"
            )
        lengths = tokens.mask.sum(1)
        slots = layout.slots
        if int(lengths.max()) > slots * self.chunk:
            raise UserError(
                "text to encode",
                f"{int(lengths.max())} tokens",
                f"at most {slots} slots of {self.chunk}",
                f"set encoder.chunk={-(-int(lengths.max()) // slots)}",
            )
        start, end = chunk_borders(lengths, slots)
        index = start.unsqueeze(2) + torch.arange(self.chunk, device=start.device)  # (B, M, chunk)
        inside = index < end.unsqueeze(2)
        embedded = self.lm.embed(tokens.ids).detach().to(self.mean)
        row = torch.arange(len(index), device=index.device)[:, None, None]
        x = embedded[row, index.clamp(max=embedded.shape[1] - 1)]
        inside = inside.unsqueeze(3).expand_as(x)
        return x.masked_fill(~inside, 0.0).flatten(2), inside.flatten(2)

    def _must_be_fitted(self) -> None:
        if not bool(self.fitted):
            raise UserError("encoder pca", "not fitted", "principal components", "call fit(texts, layout) first")
