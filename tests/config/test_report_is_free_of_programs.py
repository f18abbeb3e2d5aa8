"""The report that all programs share names no program, none of its methods and nothing of its field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for path in (ROOT / "suite" / "report").iterdir() if path.is_file())
# Methods that are called by words which any code may need.
ORDINARY = {"boost", "greedy", "uniform", "valuation"}
METHODS = {path.stem for path in (ROOT / "conf" / "asgml" / "method").glob("*.yaml")} - ORDINARY
FIELDS = {
    *("asgml", "accuracy", "asynchronous", "audio", "classification", "encoder", "fisher", "fused", "fusion"),
    *("modality", "modalities", "multimodal", "probe", "staleness", "stale", "tau", "visual"),
    *("latentwire", "codec", "injector", "latent", "passage", "wire"),
}
FORBIDDEN = re.compile(rf"(?<![a-z])({'|'.join(sorted(METHODS | FIELDS, key=len, reverse=True))})s?(?![a-z])")


def forbidden(text: str) -> list[str]:
    """Line and word of every forbidden word; `audio_head`, `AUDIO`, `AudioHead` and `audios` hold audio."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text).lower()
    return [f"{n}: {word}" for n, line in enumerate(apart.splitlines(), 1) for word in FORBIDDEN.findall(line)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_names_what_a_program_is_about(path: Path) -> None:
    assert forbidden(path.read_text(encoding="utf-8")) == []


def test_words_are_found_in_names_of_every_style() -> None:
    assert forbidden('audio_head = MODALITY_KEYED[AudioHead] + "ogm_ge" + the latents + PROBE2') == [
        *("1: audio", "1: modality", "1: audio", "1: ogm_ge", "1: latent", "1: probe")
    ]
    assert forbidden("uniform audiology wired relearning") == []
