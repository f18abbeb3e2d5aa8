"""History and HistoryLogger: append-only tables that can be cut back exactly."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from callbacks.run.history import ACTIONS, COUNTERS, ActionCounts, History
from callbacks.run.history_logger import HistoryLogger


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_rows_are_written_in_order_with_exact_values(tmp_path: Path) -> None:
    history = History(tmp_path / "run")
    history.scalar(1, 0, "train/loss", 0.1 + 0.2)
    history.scalar(1, 0, "val/map", float("nan"))
    history.event(1, 0, "gate", 'skipped: "audio",\nnot finite')
    history.timeline(1, "audio", "hold", -1, 0.0)
    assert not (tmp_path / "run" / "history.csv").exists()  # buffered
    history.flush()
    table = rows(tmp_path / "run" / "history.csv")
    assert table[0] == ["step", "epoch", "name", "value"]
    assert float(table[1][3]) == 0.1 + 0.2
    assert math.isnan(float(table[2][3]))
    assert rows(tmp_path / "run" / "events.csv")[1:] == [["1", "0", "gate", 'skipped: "audio", not finite']]
    timeline = rows(tmp_path / "run" / "timeline.csv")
    assert timeline == [["step", "modality", "action", "age", "scale"], ["1", "audio", "hold", "-1", "0.0"]]


def test_reopening_appends_and_drops_a_torn_last_line(tmp_path: Path) -> None:
    first = History(tmp_path)
    first.scalar(1, 0, "a", 1)
    first.close()
    with (tmp_path / "history.csv").open("a") as file:
        file.write("2,0,a,0.3")  # the writer was killed here
    second = History(tmp_path)
    second.scalar(2, 0, "a", 0.5)
    second.close()
    assert rows(tmp_path / "history.csv")[1:] == [["1", "0", "a", "1.0"], ["2", "0", "a", "0.5"]]


@pytest.mark.parametrize("torn", ["", "step,ep", "x" * 9000])
def test_file_without_a_whole_line_starts_anew(torn: str, tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text(torn)
    history = History(tmp_path)
    history.truncate(3)
    history.scalar(1, 0, "a", 1)
    history.close()
    assert rows(tmp_path / "history.csv") == [["step", "epoch", "name", "value"], ["1", "0", "a", "1.0"]]


def test_truncate_drops_later_steps_of_all_tables_and_continues(tmp_path: Path) -> None:
    history = History(tmp_path)
    for step in range(1, 2000):
        history.scalar(step, 0, "a", step)
        history.event(step, 0, "kind", "detail")
        history.timeline(step, "audio", "update", 0, 1.0)
    history.truncate(7)
    history.scalar(8, 1, "b", 8)
    history.close()
    assert [row[0] for row in rows(tmp_path / "history.csv")[1:]] == [str(step) for step in range(1, 9)]
    assert len(rows(tmp_path / "events.csv")) == len(rows(tmp_path / "timeline.csv")) == 8
    history.truncate(-1)
    assert (tmp_path / "history.csv").read_text() == "step,epoch,name,value\n"
    assert {path.name for path in tmp_path.iterdir()} == {"history.csv", "events.csv", "timeline.csv"}


def test_state_cuts_back_to_the_row(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.scalar(1, 0, "a", 1)
    state = history.state_dict()
    before = (tmp_path / "history.csv").read_text()
    history.scalar(1, 0, "b", 1)
    history.timeline(1, "audio", "update", 0, 1.0)
    history.flush()
    history.load_state_dict(state)
    assert (tmp_path / "history.csv").read_text() == before
    assert not rows(tmp_path / "timeline.csv")
    history.timeline(2, "audio", "update", 0, 1.0)
    history.close()
    assert len(rows(tmp_path / "timeline.csv")) == 2


def test_state_of_a_longer_table_warns_and_keeps_what_is_there(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.scalar(1, 0, "a", 1)
    state = {**history.state_dict(), "history.csv": 10_000}
    with pytest.warns(UserWarning, match="10000 bytes"):
        history.load_state_dict(state)
    assert len(rows(tmp_path / "history.csv")) == 2


def test_logger_places_rows_by_t_and_by_lightnings_step_otherwise(tmp_path: Path) -> None:
    logger = HistoryLogger(str(tmp_path))
    logger.log_metrics({"train/loss": 0.5, "t": 12.0, "epoch": 3}, step=40)
    logger.log_metrics({"val/loss": 0.25}, step=41)
    logger.finalize("success")
    assert rows(tmp_path / "history.csv")[1:] == [
        ["12", "3", "train/loss", "0.5"],
        ["41", "3", "val/loss", "0.25"],
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"history.csv"}


def test_logger_that_is_not_used_leaves_no_file(tmp_path: Path) -> None:
    logger = HistoryLogger(str(tmp_path / "run"))
    logger.log_hyperparams({"lr": 1})
    logger.finalize("success")
    assert not (tmp_path / "run").exists()


def test_every_action_is_counted_once_and_applied_is_what_moved():
    done = ActionCounts(["a", "b"])
    committed = [name for name in ACTIONS if name != "veto"]
    for action in committed:
        done.book("a", action)
    table = done.table()
    assert sum(table[counter]["a"] for counter in COUNTERS) == len(committed)
    assert table["applied"] == {"a": sum(action.moves for action in ACTIONS.values()), "b": 0}
    assert table["updates"]["a"] == table["soft"]["a"] == table["fusion"]["a"] == 1
    assert table["held"]["a"] == 2
    again = ActionCounts(["a", "b"])
    again.load_state(done.state())
    assert again.table() == table
    again.book("b", "hold")
    assert done.table() == table
