"""Rendering of emotions as sound and picture: prosody of a synthetic voice, geometry of a drawn face.

A cue is a point in a small space (pitch level, range, slope, tempo, loudness, brightness, … for the voice; mouth curve,
brow angle, eye opening, … for the face). What is rendered is the neutral point plus `strength` times the way to the
emotion's point, plus bounded nuisance, seen through an actor's own voice or face.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

# Columns: pitch level (semitones), pitch range (semitones), slope (semitones over the clip), syllables per second,
# loudness (dB), brightness (-1..1), breath noise (0..1), tremor (semitones at 7 Hz). Rows as EMOTIONS.
VOICE = np.array(
    [
        [0.0, 0.6, -1.0, 4.0, 0.0, 0.0, 0.10, 0.0],
        [5.0, 3.5, 2.0, 5.5, 4.0, 0.5, 0.05, 0.0],
        [-2.5, 0.4, -3.0, 2.5, -6.0, -0.8, 0.25, 0.2],
        [7.0, 1.0, 1.0, 6.5, -1.0, 0.2, 0.45, 1.2],
        [-4.0, 1.5, -4.5, 3.0, 1.0, -0.2, 0.30, 0.0],
        [2.5, 2.0, -0.5, 5.0, 8.0, 1.0, 0.10, 0.3],
    ]
)
VOICE_NUISANCE = np.array([1.2, 0.4, 1.0, 0.5, 2.0, 0.25, 0.05, 0.15])  # half-widths

# Columns: mouth curve (-1 down .. 1 up), mouth opening, mouth width, inner-brow height, brow height, eye opening,
# nose wrinkle, mouth skew. Rows as above.
FACE = np.array(
    [
        [0.0, 0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [1.0, 0.40, 0.6, 0.1, 0.2, -0.3, 0.0, 0.0],
        [-0.9, 0.05, -0.4, 0.9, 0.1, -0.5, 0.0, 0.0],
        [-0.2, 0.90, -0.3, 0.5, 0.9, 1.0, 0.0, 0.0],
        [-0.5, 0.15, 0.2, -0.3, -0.4, -0.6, 1.0, 0.7],
        [-0.6, 0.30, 0.4, -1.0, -0.6, 0.4, 0.4, 0.0],
    ]
)
FACE_NUISANCE = np.array([0.15, 0.06, 0.15, 0.15, 0.15, 0.15, 0.1, 0.15])

SKIN = [(255, 219, 187), (238, 190, 150), (208, 155, 110), (165, 115, 75), (120, 80, 52), (85, 55, 38)]
HAIR = [(35, 25, 20), (90, 60, 30), (160, 115, 60), (60, 60, 65), (150, 60, 30), (215, 190, 120)]


@dataclass(frozen=True)
class Actor:
    """One actor's own voice and face.

    Attributes:
        pitch: the mean pitch of the voice in Hz.
        tract: the factor on the formants.
        rough: the noise in the voice.
        age: the age in years.
        female: whether voice and face are a woman's.
        skin: the colour of the skin, RGB.
        hair: the colour of the hair, RGB.
        width: the width of the face as a share of the picture.
        height: the height of the face as a share of the picture.
        eyes: the distance of the eyes from the middle.
        brow: the thickness of the brows.
        lips: the thickness of the lips.
        beard: whether there is a beard.
        glasses: whether there are glasses.
        long_hair: whether the hair is long.
    """

    pitch: float
    tract: float
    rough: float
    age: int
    female: bool
    skin: tuple[int, ...]
    hair: tuple[int, ...]
    width: float
    height: float
    eyes: float
    brow: float
    lips: float
    beard: bool
    glasses: bool
    long_hair: bool


def draw_actor(seed: int, index: int) -> Actor:
    """Draw actor `index`, for a seed the same for ever."""
    rng = np.random.default_rng([seed, 1, index])
    female, age = bool(index % 2), int(rng.integers(20, 75))
    return Actor(
        pitch=float(rng.uniform(165, 235) if female else rng.uniform(85, 140)),
        tract=float(rng.uniform(1.05, 1.25) if female else rng.uniform(0.85, 1.05)),
        rough=float(rng.uniform(0, 0.04) + 0.001 * max(0, age - 50)),
        age=age,
        female=female,
        skin=SKIN[int(rng.integers(len(SKIN)))],
        hair=(200, 200, 200) if age > 62 else HAIR[int(rng.integers(len(HAIR)))],
        width=float(rng.uniform(0.66, 0.78)),
        height=float(rng.uniform(0.84, 0.96)),
        eyes=float(rng.uniform(0.21, 0.26)),
        brow=float(rng.uniform(0.6, 1.4)),
        lips=float(rng.uniform(0.7, 1.4)),
        beard=bool(not female and rng.uniform() < 0.35),
        glasses=bool(rng.uniform() < 0.25),
        long_hair=bool(rng.uniform() < (0.75 if female else 0.1)),
    )


def _cue(
    points: np.ndarray, nuisance: np.ndarray, emotion: int, strength: float, rng: np.random.Generator
) -> np.ndarray:
    return points[0] + strength * (points[emotion] - points[0]) + nuisance * rng.uniform(-1, 1, len(nuisance))


def render_voice(
    actor: Actor, emotion: int, strength: float, rate: int, seconds: float, rng: np.random.Generator
) -> np.ndarray:
    """Render a voice: harmonics of a pitch contour, formants, syllable bursts, breath.

    Args:
        actor: whose voice it is.
        emotion: the index of the emotion, as in EMOTIONS.
        strength: the share of the way from the neutral cue to the emotion's, 0 to 1.
        rate: the sample rate in Hz.
        seconds: the length.
        rng: the source of what is random about this clip.

    Returns:
        Samples as float32 (rate * seconds,) in [-1, 1].
    """
    level, width, slope, tempo, loud, bright, breath, tremor = _cue(VOICE, VOICE_NUISANCE, emotion, strength, rng)
    n = int(rate * seconds)
    t = np.arange(n, dtype=np.float32) / rate
    u = t / seconds
    sway = np.sin(2 * np.pi * (rng.uniform(0.8, 1.2) * tempo / 4 * t + rng.uniform()))
    contour = level + slope * (u - 0.5) + width * sway
    contour = contour + tremor * np.sin(2 * np.pi * (7 * t + rng.uniform()))
    f0 = actor.pitch * 2 ** (contour / 12)
    phase = (2 * np.pi / rate) * np.cumsum(f0, dtype=np.float64)
    base = np.exp(1j * phase).astype(np.complex64)
    formants = np.array([500.0, 1500.0, 2500.0]) * actor.tract * rng.uniform(0.9, 1.1, 3)
    tilt = 1.1 - 0.55 * bright
    wave, power, mean = np.zeros(n, dtype=np.float32), base.copy(), float(f0.mean())
    for k in range(1, 25):
        f = k * mean
        if f * 1.3 > rate / 2:
            break
        gain = k**-tilt * (0.25 + np.exp(-(((f - formants) / 180) ** 2)).sum())
        wave += np.float32(gain) * power.imag
        power = power * base
    noise = rng.standard_normal(n).astype(np.float32)
    wave = wave / (np.abs(wave).max() + 1e-6) + (max(breath, 0) * 0.5 + actor.rough) * noise
    beats = np.cos(2 * np.pi * (max(tempo, 1.0) * t + rng.uniform()))
    envelope = (0.15 + 0.85 * (0.5 + 0.5 * beats) ** 1.5) * np.minimum(1, np.minimum(u, 1 - u) * 12)
    gain = 0.12 * 10 ** (loud / 20)
    room = 0.003 * rng.uniform(0.5, 1.5) * rng.standard_normal(n)
    return np.clip(gain * envelope * wave + room, -1, 1).astype(np.float32)


def render_face(
    actor: Actor, emotion: int, strength: float, height: int, width: int, clutter: float, rng: np.random.Generator
) -> bytes:
    """Render a face and return it as JPEG.

    Args:
        actor: whose face it is.
        emotion: the index of the emotion, as in EMOTIONS.
        strength: the share of the way from the neutral cue to the emotion's, 0 to 1.
        height: the height of the picture in pixels.
        width: the width of the picture in pixels.
        clutter: the scale, 0 to 1, of what is not emotion: place, size, light, background.
        rng: the source of what is random about this picture.
    """
    curve, opening, broad, inner, brow, lids, wrinkle, skew = _cue(FACE, FACE_NUISANCE, emotion, strength, rng)
    side = 4 * max(height, width)
    image = Image.new("RGB", (side, side), tuple(int(v) for v in rng.integers(30, 226, 3)))
    pen = ImageDraw.Draw(image)
    for _ in range(round(4 * clutter)):
        corner, extent = rng.uniform(-0.2, 1, 2) * side, rng.uniform(0.1, 0.5, 2) * side
        pen.rectangle((*corner, *(corner + extent)), fill=tuple(int(v) for v in rng.integers(20, 236, 3)))
    scale = side * (1 - 0.15 * clutter * rng.uniform(0, 1))
    cx, cy = side * (0.5 + 0.07 * clutter * rng.uniform(-1, 1, 2))
    fw, fh = actor.width * scale / 2, actor.height * scale / 2
    dark = tuple(int(v * 0.55) for v in actor.skin)
    brow_colour = tuple(int(v * 0.25) for v in actor.skin)

    def oval(x: float, y: float, rx: float, ry: float, fill: tuple[int, ...]) -> None:
        pen.ellipse((cx + x - rx, cy + y - ry, cx + x + rx, cy + y + ry), fill=fill)

    def line(points: list[tuple[float, float]], fill: tuple[int, ...], thick: float) -> None:
        pen.line([(cx + x, cy + y) for x, y in points], fill=fill, width=max(1, round(thick)), joint="curve")

    if actor.long_hair:
        oval(0, 0.05 * fh, 1.22 * fw, 1.15 * fh, actor.hair)
        pen.rectangle((cx - 1.2 * fw, cy, cx + 1.2 * fw, cy + 1.05 * fh), fill=actor.hair)
    else:
        oval(0, -0.2 * fh, 1.08 * fw, 0.92 * fh, actor.hair)
    oval(0, 0, fw, fh, actor.skin)
    pen.chord((cx - fw, cy - 1.02 * fh, cx + fw, cy - 0.35 * fh), 180, 360, fill=actor.hair)
    if actor.beard:
        pen.chord((cx - 0.85 * fw, cy + 0.1 * fh, cx + 0.85 * fw, cy + 1.0 * fh), 0, 180, fill=actor.hair)
    ex, ey, er = actor.eyes * scale * 0.75, -0.10 * fh, 0.085 * scale
    for s in (-1, 1):
        ry = er * float(np.clip(0.62 + 0.5 * lids, 0.1, 1.3))
        oval(s * ex, ey, er * 1.15, ry, (245, 245, 245))
        oval(s * ex, ey, er * 0.45, min(er * 0.45, ry), (30, 25, 25))
        by = ey - er * (1.6 + 0.7 * brow)
        line(
            [
                (s * (ex - 1.3 * er), by - inner * 0.9 * er),
                (s * ex, by - 0.25 * er),
                (s * (ex + 1.3 * er), by + inner * 0.5 * er),
            ],
            brow_colour,
            0.035 * scale * actor.brow,
        )
        if actor.glasses:
            box = (cx + s * ex - 1.7 * er, cy + ey - 1.4 * er, cx + s * ex + 1.7 * er, cy + ey + 1.4 * er)
            pen.rectangle(box, outline=(25, 25, 25), width=max(1, round(0.012 * scale)))
    line([(0, ey + 0.5 * er), (-0.04 * scale, 0.22 * fh), (0.03 * scale, 0.24 * fh)], dark, 0.014 * scale)
    for k in range(2):
        if wrinkle > 0.3:
            y = (0.06 + 0.10 * k) * fh
            line(
                [(-0.05 * scale, y), (0.0, y - 0.02 * fh * wrinkle), (0.05 * scale, y)],
                dark,
                0.03 * scale * wrinkle,
            )
    mw, my, bend = 0.17 * scale * (1 + 0.35 * broad), 0.58 * fh, 0.24 * fh * curve
    x = np.linspace(-1, 1, 13)
    top = my + bend * (0.5 - x**2) + skew * 0.14 * fh * x
    gap = max(0.0, opening) * 0.32 * fh * np.sqrt(np.clip(1 - x**2, 0, 1))
    upper, lower = list(zip(x * mw, top - gap / 2)), list(zip(x * mw, top + gap / 2))
    pen.polygon([(cx + a, cy + b) for a, b in upper + lower[::-1]], fill=(70, 20, 25))
    lip = (165, 60, 65) if actor.skin[0] > 130 else (205, 105, 105)
    line(upper, lip, 0.03 * scale * actor.lips)
    line(lower, lip, 0.03 * scale * actor.lips)

    image = image.rotate(
        8 * clutter * rng.uniform(-1, 1), resample=Image.Resampling.BILINEAR, fillcolor=image.getpixel((1, 1))
    )
    image = image.resize((width, height), Image.Resampling.BOX)
    image = ImageEnhance.Brightness(image).enhance(1 + 0.35 * clutter * rng.uniform(-1, 1))
    pixels = np.asarray(image, dtype=np.float32) + 12 * clutter * rng.standard_normal((height, width, 3))
    out = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=92)
    return out.getvalue()
