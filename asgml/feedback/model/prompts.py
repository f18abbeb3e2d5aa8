"""Prompts for what is whole and what is damaged, by class name."""

from __future__ import annotations

#: the states and templates of AA-CLIP (Ma et al., CVPR 2025): three normal and five damaged phrases, two templates each
NORMAL = ("{}", "a {}", "the {}")
DAMAGED = ("a damaged {}", "a broken {}", "a {} with flaw", "a {} with defect", "a {} with damage")
TEMPLATES = ("{}.", "a photo of {}.")


def prompts(class_name: str) -> tuple[list[str], list[str]]:
    """Return the prompts for a normal and for a damaged thing of a class; `metal_nut` is read as metal nut."""
    name = class_name.replace("_", " ")

    def texts(states: tuple[str, ...]) -> list[str]:
        return [template.format(state.format(name)) for state in states for template in TEMPLATES]

    return texts(NORMAL), texts(DAMAGED)
