"""The prepare command, from overrides to shards."""

from __future__ import annotations

from pathlib import Path

from asgml.data.prepare import main

MINI = ["experiment=cremad_mini", "data.samples=72", "data.actors=6", "--workers", "2"]


def run(tmp_path: Path, *overrides: str) -> int:
    return main([*MINI, f"paths.data={tmp_path}", *overrides])


def test_prepare_renders_decodes_and_reports(tmp_path, capsys):
    assert run(tmp_path) == 0
    out = capsys.readouterr().out
    assert "train" in out
    assert "visual" in out
    shards = sorted((tmp_path / "cremad_mini").glob("render-*/prepared/*/data.npy"))
    assert len(shards) == 2
    stamps = [p.stat().st_mtime_ns for p in shards]
    assert run(tmp_path) == 0
    assert [p.stat().st_mtime_ns for p in shards] == stamps


def test_prepare_lists_corrupt_files_and_exits_2(tmp_path, capsys):
    assert run(tmp_path) == 0
    wav = next((tmp_path / "cremad_mini").rglob("1003_IEO_SAD_XX.wav"))
    content = wav.read_bytes()
    wav.write_bytes(content[:1000])
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert "1 of 72 audio files cannot be used" in error
    assert f"{wav} (truncated" in error
    assert "Traceback" not in error
    assert run(tmp_path, "data.corrupt=missing") == 0
    wav.write_bytes(content)
    assert run(tmp_path) == 0


def test_absent_data_typos_and_wrong_values_exit_2(tmp_path, capsys):
    for overrides, told in (
        (["experiment=cremad", f"paths.data={tmp_path}"], "set data.path"),
        (["experiment=cremad_mini", "data.dominanse=1.0"], "data.dominance"),
        (["experiment=cremad_mini", "data.frames=two"], "data.frames"),
        (["experiment=cremad_mini", "data.dominance=2.0"], "0 to 1"),
        (["experiment=cremad_mini", "--workers", "0"], "--workers"),
    ):
        assert main(overrides) == 2
        error = capsys.readouterr().err
        assert told in error
        assert len(error.splitlines()) < 25
