"""Sound at another rate: windowed sinc interpolation, for any two rates in memory that grows with them alone."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
import torchaudio
from scipy.signal import upfirdn

WIDTH, ROLLOFF = 6, 0.99  # the defaults of torchaudio.functional.resample
MOST = 1 << 20  # elements of a kernel that is held as a matrix: 4 MB, 30 ms


def resample(wave: torch.Tensor, source: int, target: int) -> torch.Tensor:
    """Return (…, n) samples at `source` Hz as (…, ceil(n * target / source)), as `torchaudio.functional.resample`.

    torchaudio holds one filter per phase of the output, a matrix of about source * target / gcd² elements: 176 million
    from 22 051 to 8 000 Hz. Where it would hold more than a million, the same filter is applied in its polyphase form
    (Crochiere and Rabiner, "Multirate Digital Signal Processing", 1983), which holds about 12 * max(source, target) /
    gcd. The two agree to the rounding of torchaudio's filter, which is float32.
    """
    if source == target:
        return wave
    common = math.gcd(source, target)
    down, up = source // common, target // common
    reach = math.ceil(WIDTH * down / (min(down, up) * ROLLOFF))
    if up * (down + 2 * reach) <= MOST:
        return _resampler(source, target)(wave)
    taps, ahead = _polyphase(down, up)
    length = -(-wave.shape[-1] * up // down)
    out = upfirdn(taps, wave.numpy().astype(np.float64), up, down)[..., ahead : ahead + length]
    short = length - out.shape[-1]  # the last samples may lie beyond the filter's reach of the last input
    out = np.pad(out, [(0, 0)] * (out.ndim - 1) + [(0, short)]) if short > 0 else out
    return torch.from_numpy(np.ascontiguousarray(out, dtype=np.float32))


@functools.lru_cache(maxsize=32)
def _resampler(source: int, target: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(source, target)  # holds its filter, which costs more than using it


@functools.lru_cache(maxsize=4)
def _polyphase(down: int, up: int) -> tuple[np.ndarray, int]:
    """Return the filter at `up` times the source's rate, and how many samples of the output come before its middle."""
    base = min(down, up) * ROLLOFF
    half = math.floor(WIDTH * down * up / base)
    half += -half % down  # the middle falls on a sample of the output
    t = np.clip(np.arange(-half, half + 1) * (base / (down * up)), -WIDTH, WIDTH)
    return np.sinc(t) * np.cos(t * np.pi / WIDTH / 2) ** 2 * base / down, half // down
