"""When a wire is worth having, in words that follow from the numbers: positions, bytes, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from latentwire.page.scores import CODED, TEXT, beside, f1, gain, mean, methods, ratios, wires
from latentwire.report.stored import evaluated, plain
from suite.report.frames import Configuration
from suite.report.tables import PERCENT, signed

KEPT = 0.98  # F1 over that of the text from which a wire counts as losing nothing


def worth(found: Sequence[Configuration], times: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the paragraphs.

    Args:
        found: the configurations that were evaluated.
        times: what `latentwire.study breakeven` has measured, by label.
    """
    single = [c for c in found if wires(c) == ["wire"]]
    parts = [positions(single), sizes(single), durations(times)]
    return "\n\n".join(part for part in parts if part) + "\n"


def kept(found: Sequence[Configuration]) -> list[Configuration]:
    """Return those that lose nothing with every seed."""
    return [c for c in found if (r := ratios(c, "wire")) and min(r.values()) >= KEPT]


def positions(found: Sequence[Configuration]) -> str:
    """Say from how few positions a wire answers like the text, and what else does."""
    told = []
    for c in kept(found):
        text, here = beside(c, "wire", TEXT), mean(c, "wire", "positions")
        whole = None if text is None else mean(c, text, "positions")
        if here is not None and whole is not None:
            told.append((here, c, whole))
    if not told:
        return f"**Positions.** No wire keeps {KEPT:g} of the text's F1 with every seed."
    here, c, whole = min(told, key=lambda t: t[0])
    lines = [
        f"**Positions.** `{c.label}` has {_percent(c, 'wire')} from {here:.0f} positions where the text takes "
        f"{whole:.0f}; the fewest with at least {KEPT:g} of the text's F1 with every seed."
    ]
    free = {k: f1(c, k) for k, m in methods(c).items() if untrained(m) and (mean(c, k, "positions") or 0) <= here}
    if free:
        best = max(free, key=lambda k: free[k])
        lines.append(f"Of what trains nothing, `{best}` comes closest with no more positions: {_percent(c, best)}.")
    trained = [line for other in found if (line := _trained(other))]
    if trained:
        lines.append(f"Against rivals that saw as many questions, {'; '.join(trained)}.")
    return " ".join(lines)


def untrained(method: Mapping[str, Any]) -> bool:
    """Return whether a method is a rival that was trained on no question, and a fair one."""
    return method["kind"] == "baseline" and bool(method["fair"]) and not method.get("questions_seen")


def _trained(c: Configuration) -> str:
    """Compare a wire with the rivals that were trained for as long; "" where there is none."""
    known = methods(c)
    learned = [k for k, m in known.items() if m["kind"] == "baseline" and m.get("questions_seen")]
    lines = []
    for key in learned:
        got = gain(c, "wire", key)
        if got is not None:
            span = f"[{signed(got.low * PERCENT, 1)}, {signed(got.high * PERCENT, 1)}]"
            word = "ahead of" if got.low > 0 else "behind" if got.high < 0 else "not told apart from"
            name = f"`{plain(key, known[key])}` ({_percent(c, key)}; {signed(got.estimate * PERCENT, 1)} {span})"
            lines.append(f"{word} {name}")
    return f"`{c.label}` ({_percent(c, 'wire')}) is {', '.join(lines)}" if lines else ""


def sizes(found: Sequence[Configuration]) -> str:
    """Say whether a message is smaller than the text coded by the reader itself."""
    coded = [(b, c, k) for c in found if (k := beside(c, "wire", CODED)) and (b := mean(c, k, "bytes"))]
    if not coded:
        return ""
    least, where, key = min(coded, key=lambda t: t[0])
    line = (
        f"**Bytes.** The text coded by the reader's own probabilities takes {least:.1f} bytes and is read back whole "
        f"({_percent(where, key)})."
    )
    small = [(b, c) for c in kept(found) if (b := mean(c, "wire", "bytes"))]
    if not small:
        return f"{line} No wire keeps {KEPT:g} of the text's F1 with every seed, so none competes in bytes."
    size, c = min(small, key=lambda t: t[0])
    told = f"The smallest message that keeps {KEPT:g} of its F1 is that of `{c.label}`: {size:.1f} bytes."
    verdict = "no reason to have a wire here" if size >= least else "a reason to have a wire here"
    return f"{line} {told} Bytes are {verdict}."


def durations(times: Mapping[str, Mapping[str, Any]]) -> str:
    """Say from how many reads of one message on a wire takes less time than the text."""
    lines = []
    for label, found in times.items():
        for r in found["rows"]:
            lines.append(
                f"`{label}`, {r['tokens']} tokens: {_reads(r['against_text'])} against the text read with every "
                f"question, {_reads(r['against_cache'])} against its kept keys and values"
            )
    if not lines:
        return ""
    slow = [
        f"{r['decode']:.0f} ms for {r['tokens']} tokens" for f in times.values() for r in f["rows"] if r.get("decode")
    ]
    back = f" A text coded by its reader is read back a token at a time: {slow[0]}, once per text." if slow else ""
    return "**Time.** A wire costs less from so many questions about one text on: " + "; ".join(lines) + "." + back


def _reads(value: int | None) -> str:
    return "never" if value is None else str(value)


def _percent(c: Configuration, key: str) -> str:
    assert evaluated(c)
    return f"F1 {f1(c, key) * PERCENT:.1f} %"
