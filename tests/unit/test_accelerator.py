"""The command for an accelerator: every section has an answer, whatever happens; what is done is not done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.errors import UserError
from suite.accelerator import page, runner, section
from suite.accelerator.__main__ import main, registered
from suite.accelerator.results import Results
from suite.accelerator.runner import run
from suite.accelerator.section import Place, Row, Section, Unavailable, check, not_done, register
from suite.accelerator.synchronisations import synchronisations

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "results" / "accelerator.md"
CPU = torch.device("cpu")


class Asked:
    """Sections of every fate, which count how often they were asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        made: dict[str, Callable[[], Iterator[Row]]] = {
            "good": lambda: iter([check("a", "1", "1", True), Row("b", "2 ms"), not_done("c", "one device")]),
            "wrong": lambda: iter([check("a", "2", "1", False)]),
            "broken": self.broken,
            "absent": self.absent,
            "slow": self.slow,
        }
        self.sections = [Section(name, name.title(), 0.05, self.counted(name, rows)) for name, rows in made.items()]

    def counted(self, name: str, rows: Callable[[], Iterator[Row]]) -> Callable[[Place], Iterator[Row]]:
        def ask(place: Place) -> Iterator[Row]:
            self.calls.append(name)
            yield from rows()

        return ask

    def broken(self) -> Iterator[Row]:
        yield Row("before", "seen")
        raise RuntimeError("a kernel\nfailed")

    def absent(self) -> Iterator[Row]:
        raise Unavailable("one device; two are needed")
        yield

    def slow(self) -> Iterator[Row]:
        yield Row("first", "in time")
        time.sleep(30)
        yield Row("second", "too late")


@pytest.fixture(autouse=True)
def one_code(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The circumstances, without reading every source file; a test may change them."""
    now = {"device": "D", "torch": "T", "commit": "C", "code": "1"}
    monkeypatch.setattr(runner, "circumstances", lambda device: dict(now))
    return now


def ask(asked: Asked, folder: Path, limit: float = 60.0, **more: Any) -> tuple[Results, list[str]]:
    results, said = Results(folder), list[str]()
    run(asked.sections, Place(CPU, folder), results, limit, said.append, **more)
    return results, said


def test_one_sections_fate_is_not_anothers(tmp_path: Path) -> None:
    results, said = ask(Asked(), tmp_path)
    found = {name: (a.status, a.reason, len(a.rows), a.failed) for name, a in results.answers.items()}
    assert found == {
        "good": ("done", "", 3, False),
        "wrong": ("done", "", 1, True),
        "broken": ("failed", "RuntimeError: a kernel failed", 1, True),
        "absent": ("not done", "one device; two are needed", 0, False),
        "slow": ("not done", "time: 0 s were not enough; the rows are those until then", 1, False),
    }
    assert said[0] == "good: done in 0 s; 1 passed, 1 measured, 1 not done"


def test_answers_are_on_disk_at_once_and_only_what_is_missing_is_asked_again(
    tmp_path: Path, one_code: dict[str, str]
) -> None:
    first = Asked()
    ask(first, tmp_path)
    stored = Results(tmp_path)
    assert stored.answers["broken"].rows == [Row("before", "seen")]
    second = Asked()
    _, said = ask(second, tmp_path)
    assert second.calls == ["broken", "absent", "slow"]
    assert said[0].startswith("good: done before")
    third = Asked()
    ask(third, tmp_path, again=["wrong"])
    assert third.calls == ["wrong", "broken", "absent", "slow"]
    one_code["code"] = "2"
    fourth = Asked()
    ask(fourth, tmp_path)
    assert fourth.calls == first.calls


def test_a_section_that_does_not_fit_is_not_begun_and_keeps_an_earlier_answer(tmp_path: Path) -> None:
    asked = Asked()
    results, _ = ask(asked, tmp_path, limit=runner.CLOSE + 0.01)
    assert asked.calls == []
    assert all(a.status == "not done" and a.reason.startswith("time: ") for a in results.answers.values())
    ask(Asked(), tmp_path)
    later, _ = ask(Asked(), tmp_path, limit=runner.CLOSE + 0.01)
    assert later.answers["broken"].status == "failed"


def test_the_page_tells_all_of_it(tmp_path: Path) -> None:
    asked = Asked()
    sections = {"asgml": asked.sections}
    results, _ = ask(asked, tmp_path)
    text = page.page(sections, results.answers)
    assert page.NOTHING not in text
    assert "| a | 2 | 1 | **failed** |" in text
    assert "| c | one device |  | not done |" in text
    assert "**Failed**: RuntimeError: a kernel failed" in text
    assert "**Not done**: one device; two are needed" in text
    assert "D, torch T, commit C; 0 s, " in text


def test_a_page_with_measurements_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    asked = Asked()
    page.write(file, {"asgml": asked.sections}, {})
    page.write(file, {"asgml": asked.sections}, {})
    results, _ = ask(asked, tmp_path)
    page.write(file, {"asgml": asked.sections}, results.answers)
    with pytest.raises(UserError, match=r"results\.json"):
        page.write(file, {"asgml": asked.sections}, {})


def test_the_committed_page_is_that_of_the_sections_or_has_been_measured() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == page.page(registered(["asgml"]), {}) or page.NOTHING not in text, (
        "python -m suite.accelerator asgml --page-only"
    )


def test_all_sections_fit_into_the_eight_minutes() -> None:
    assert sum(s.seconds for s in registered(["asgml"])["asgml"]) + runner.CLOSE <= 450


def test_the_command_on_a_machine_without_a_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so and fails nothing; no file is written."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["asgml", "--out", str(tmp_path), "--page", str(tmp_path / "page.md")]) == 0
    names = [s.name for s in registered(["asgml"])["asgml"]]
    assert capsys.readouterr().out.splitlines() == [f"{name}: not done: no CUDA device" for name in names]
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_asked_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["callbacks"]) == UserError.EXIT_CODE
    assert "no callbacks.accelerator" in capsys.readouterr().err
    assert main(["asgml", "--again", "pined", "--out", str(tmp_path)]) == UserError.EXIT_CODE
    assert "some of precision, " in capsys.readouterr().err
    (tmp_path / "results.json").write_text("{")
    assert main(["asgml", "--out", str(tmp_path)]) == UserError.EXIT_CODE
    assert "rm " in capsys.readouterr().err


def test_another_program_registers_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(section, "_SECTIONS", {})
    register("other", Asked().sections)
    assert [s.name for s in section.sections_of("other")] == ["good", "wrong", "broken", "absent", "slow"]


def test_reads_of_the_host_are_counted_with_their_place() -> None:
    x = torch.arange(3.0)
    with synchronisations(Place(CPU, Path())) as found:
        float(x[0])
        x.tolist()
        x + 1
    assert len(found) == 2
    assert all(place.startswith("test_accelerator.py:") for place in found)
    x.tolist()
    assert len(found) == 2
