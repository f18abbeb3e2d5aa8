"""What docstrings say: a phrase about a class, the paper behind it, the meaning of its parameters."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import suite
from callbacks.errors import UserError
from suite.config.reference.files import packages
from suite.config.signature import locate

_ROOT = Path(suite.__file__).resolve().parents[1]
_SECTION = re.compile(r"^(Args|Attributes|Parameters):[ \t]*\n((?:[ \t]+.*\n|[ \t]*\n)*)", re.MULTILINE)
_HEADING = re.compile(r"^[A-Z]\w*:{1,2}$")
_CITATION = re.compile(r"\s*\(([^()]*\b(?:19|20)\d\d\b[^()]*)\)")
_EXAMPLE = re.compile(r"^Examples?:{1,2}[ \t]*\n((?:[ \t]+.*\n|[ \t]*\n)*)", re.MULTILINE)
_TYPE = r"(?: ?\((?:[^()\n]|\([^()\n]*\))*\))?"
_REFERENCE = re.compile(r"`((?:\w+\.){2,}\w+)`")
_FEW_WORDS = 5  # fewer are a name rather than a description


def meanings(target: Callable[..., Any], names: Iterable[str]) -> dict[str, str]:
    """Return what the docstrings of a class (its bases too) or function say about each of `names`.

    Read are the sections `Args:` and `Attributes:`, several names before a colon and several entries in a line
    (`first, last: bounds. step: between two.`) included; a name without an entry there is looked for in the rest of
    the docstring, in the same form. Of the rest a dataclass may name the class or function that takes its fields
    (`suite.config.compose.Composer`).
    """
    wanted = list(names)
    found: dict[str, str] = {}
    for doc in _docs(target):
        doc = _EXAMPLE.sub("\n", doc + "\n")
        sections = "\n\n".join(inspect.cleandoc(m.group(2)) for m in _SECTION.finditer(doc))
        for text in (sections, doc):
            for name, meaning in _entries(text, wanted):
                found.setdefault(name, meaning)
    if dataclasses.is_dataclass(target):
        for other in map(_named, _REFERENCE.findall(_own_doc(target))):
            found = {**(meanings(other, wanted) if callable(other) else {}), **found}
    return found


def _named(path: str) -> Any:
    """Return what a dotted name of this repository stands for; None for a key of the configuration."""
    try:
        return locate(path) if path.partition(".")[0] in packages() else None
    except UserError:
        return None


def phrase(target: Callable[..., Any]) -> str:
    """Return what a class or function is, in its docstring's first sentence; its module's, where that is a mere name.

    A citation in brackets is left out: see `paper`.
    """
    doc = _paragraph(_own_doc(target))
    sentence = _informative(_CITATION.sub("", doc))
    if len(sentence.split()) >= _FEW_WORDS or not _CITATION.search(doc):
        return sentence
    module = sys.modules[target.__module__].__doc__ or ""
    return first_sentence(_paragraph(module)) or sentence


def summary(target: Callable[..., Any]) -> str:
    """Return the first sentence of a docstring as it stands."""
    return _informative(_paragraph(_own_doc(target)))


def first_sentence(text: str) -> str:
    """Return a text up to a full stop before a capital letter; `et al.`, `e.g.` and initials end no sentence."""
    for match in re.finditer(r"(?<!al)(?<!e\.g)(?<!i\.e)(?<!\b[A-Z])\.(?=\s+[A-Z`])", text):
        return text[: match.end()].rstrip(".")
    return text.rstrip(".,:")


def paper(target: Callable[..., Any]) -> str:
    """Return the first citation in brackets of a class's docstring; empty where there is none."""
    found = _CITATION.search(" ".join(_own_doc(target).split()))
    return found.group(1) if found else ""


def place(target: Callable[..., Any]) -> tuple[str, int]:
    """Return file (from the repository's root) and line of the source of a class or function."""
    plain = inspect.unwrap(target)
    return (inspect.getsourcefile(plain) or "").removeprefix(f"{_ROOT}/"), inspect.getsourcelines(plain)[1]


def _docs(target: Callable[..., Any]) -> Iterator[str]:
    if not inspect.isclass(target):
        yield inspect.getdoc(target) or ""
        return
    for base in target.__mro__[:-1]:
        yield _own_doc(base)
        init = base.__dict__.get("__init__")
        yield inspect.cleandoc(getattr(init, "__doc__", None) or "")


def _own_doc(target: Callable[..., Any]) -> str:
    doc = target.__dict__.get("__doc__") if inspect.isclass(target) else inspect.getdoc(target)
    text = inspect.cleandoc(doc or "")
    return "" if text.startswith(f"{getattr(target, '__name__', '')}(") else text  # a dataclass's own signature


def _entries(text: str, names: list[str]) -> Iterator[tuple[str, str]]:
    """Yield name and meaning: from `name[, name] [(type)]: ` at the start of a line or sentence to the next such, the
    end of the paragraph or the next heading."""
    known = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    if not known:
        return
    head = re.compile(rf"(?:^[ \t]*|(?<=[.;] ))((?:{known})(?:, (?:{known}))*){_TYPE}:\s+(?=\S)", re.MULTILINE)
    other = re.compile(rf"^[ \t]*\*{{0,2}}\w+{_TYPE}:(?: |$)")
    heads = list(head.finditer(text))
    for i, match in enumerate(heads):
        end = heads[i + 1].start() if i + 1 < len(heads) else len(text)
        lines = []
        for n, line in enumerate(text[match.end() : end].split("\n")):
            if n > 0 and (not line.strip() or _HEADING.match(line.strip()) or other.match(line)):
                break
            lines.append(line.strip())
        meaning = " ".join(lines).strip()
        if meaning:
            for name in match.group(1).split(", "):
                yield name, meaning


def _paragraph(doc: str) -> str:
    return " ".join(doc.strip().split("\n\n")[0].split())


def _informative(text: str) -> str:
    """Return the first sentence; the second as well where the first is a word or two."""
    first = first_sentence(text)
    rest = text[len(first) :].lstrip(". ")
    return f"{first}. {first_sentence(rest)}" if rest and len(first.split()) < 3 else first
