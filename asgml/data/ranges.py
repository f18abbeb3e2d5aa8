"""The ranges of data: batches, missing modalities, and sample rates, lengths, pixels, bands and frames of media."""

from __future__ import annotations

from typing import Annotated

from callbacks.ranges import MANY, Bounds

SampleRate = Annotated[int, Bounds("a sample rate from 1000 to 768000 Hz", ge=1000, le=768000)]
Seconds = Annotated[float, Bounds("0.05 to 3600 seconds", ge=0.05, le=3600)]
Pixels = Annotated[int, Bounds("1 to 8192 pixels", ge=1, le=8192)]
Bands = Annotated[int, Bounds("1 to 4096 bands", ge=1, le=4096)]
Frames = Annotated[int, Bounds("1 to 4096 frames", ge=1, le=4096)]
MissingRate = Annotated[float, Bounds("a share of 0 or more, below 1", ge=0, lt=1, example=0.3)]
BatchSize = Annotated[int, Bounds("a whole number from 1 to a billion", ge=1, le=MANY, example=64)]
