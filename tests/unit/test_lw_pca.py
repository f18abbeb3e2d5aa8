"""The encoder that is fitted: principal components of chunks of embeddings."""

from __future__ import annotations

import pytest
import torch
from lw_parts import SHARED, TEXTS, make_encoder, rms
from lw_toys import tiny_lm

from callbacks.errors import UserError
from latentwire.encoders.pca import PCAEncoder
from latentwire.encoders.slots import LatentLayout
from latentwire.lm.frozen import FrozenLM


def test_pca_is_the_projection_on_the_first_singular_vectors() -> None:
    lm = tiny_lm()
    encoder = PCAEncoder(lm, d_z=5, chunk=1)
    texts = [text for text in TEXTS if text.isascii()]
    layout = LatentLayout(60)
    rows = torch.cat([lm.embed(torch.tensor(lm.style.encode(t))) for t in texts])
    # 60 slots for shorter texts: tokens recur, which weighs them
    start = [torch.arange(60) * len(lm.style.encode(t)) // 60 for t in texts]
    rows = torch.cat([lm.embed(torch.tensor(lm.style.encode(t)))[s] for t, s in zip(texts, start, strict=True)])
    encoder.fit(texts, layout)
    u, s, _ = torch.linalg.svd((rows - rows.mean(0)).double(), full_matrices=False)
    assert float(encoder.explained) == pytest.approx(float(s[:5].pow(2).sum() / s.pow(2).sum()), rel=1e-4)
    z = encoder.encode(texts, layout).flatten(0, 1).double() * encoder.scale
    torch.testing.assert_close(z.abs(), (u * s)[:, :5].abs(), rtol=1e-3, atol=1e-3)
    assert encoder.scale == pytest.approx(float(rms(rows)), rel=1e-4)


def test_pca_with_all_components_loses_nothing() -> None:
    lm = tiny_lm()
    texts = [f"{word} number {i} of the text" for i in range(40) for word in ("one", "another")]
    encoder = PCAEncoder(lm, d_z=64, chunk=2)
    encoder.fit(texts, LatentLayout(16))
    assert float(encoder.explained) == pytest.approx(1, abs=1e-4)
    tokens = encoder.tokenize(texts[::9])
    lengths = tokens.mask.sum(1)
    for slots in (16, 40):
        back = encoder.reconstruct(encoder(tokens, LatentLayout(slots)), lengths)
        expected = lm.embed(tokens.ids).masked_fill(~tokens.mask.unsqueeze(2), 0.0)
        torch.testing.assert_close(back, expected, rtol=1e-3, atol=1e-3)


def test_pca_of_few_long_chunks_agrees_with_that_of_many() -> None:
    lm = tiny_lm()
    encoder, twice = PCAEncoder(lm, d_z=3, chunk=4), PCAEncoder(lm, d_z=3, chunk=4)
    texts = ["Ada Stone lives in Oslo!", "Ben Hale works as a baker"]
    encoder.fit(texts, LatentLayout(7))  # 14 chunks of 128 numbers: Gram matrix
    twice.fit(texts * 20, LatentLayout(7))  # the same chunks, 20 times: covariance
    torch.testing.assert_close(
        encoder.encode(texts, LatentLayout(7)), twice.encode(texts, LatentLayout(7)), rtol=1e-3, atol=1e-3
    )


def test_pca_refuses_what_it_cannot_do() -> None:
    lm = tiny_lm()
    encoder = PCAEncoder(lm, d_z=3, chunk=4)
    with pytest.raises(UserError, match="call fit"):
        encoder.encode(TEXTS, SHARED)
    with pytest.raises(UserError, match="more than d_z"):
        encoder.fit(["abc"], LatentLayout(1))
    with pytest.raises(UserError, match=r"encoder\.chunk=13"):
        _fitted(lm).encode(TEXTS, SHARED)
    with pytest.raises(UserError, match="shared slots only"):
        make_encoder("pca", lm).encode(TEXTS, LatentLayout(3, {"a": 2, "b": 1}))
    with pytest.raises(UserError, match="d_z at most"):
        PCAEncoder(lm, d_z=33, chunk=1)


def _fitted(lm: FrozenLM) -> PCAEncoder:
    encoder = PCAEncoder(lm, d_z=3, chunk=4)
    encoder.fit(TEXTS, LatentLayout(16))
    return encoder
