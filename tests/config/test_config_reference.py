"""docs/config.md and docs/methods_index.md say what docstrings and YAML comments say, of every key, and all of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from suite.config.compose import Composer, conf_dir, dotted_keys
from suite.config.reference.__main__ import pages, unexplained
from suite.config.reference.catalogue import Chapter, catalogue, covers
from suite.config.reference.docstrings import meanings, paper, phrase
from suite.config.reference.files import Tree, read, tree
from suite.config.reference.keys import Row, type_text
from suite.config.signature import parameters

ROOT = Path(__file__).resolve().parents[2]

TREES = [
    *((f"{program.name}/{primary}", "") for program in tree().programs for primary in program.primaries),
    *((p.parts[-3], f"experiment={p.stem}") for p in sorted(conf_dir().glob("*/experiment/*.yaml"))),
]


@pytest.fixture(scope="module")
def chapters() -> list[Chapter]:
    return catalogue(tree())


def test_the_committed_pages_are_up_to_date(chapters: list[Chapter]) -> None:
    for name, text in pages(tree(), chapters).items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, "run python -m suite.config.reference"


def test_every_key_has_a_meaning(chapters: list[Chapter]) -> None:
    assert unexplained(chapters) == []


@pytest.mark.parametrize(("program", "override"), TREES)
def test_every_key_of_a_composed_tree_is_on_the_page(chapters: list[Chapter], program: str, override: str) -> None:
    rows = [r for c in chapters if c.name in (program.partition("/")[0], "common") for r in c.rows]
    cfg = Composer(program).compose([override] if override else [])
    keys = [key for key in dotted_keys(cfg) if not any(part.startswith("_") for part in key.split("."))]
    leaves = [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]
    assert len(leaves) > 3
    missing = [key for key in leaves if not any(covers(row, key) for row in rows)]
    assert [key for key in missing if not _is_node_without_keys(cfg, key)] == []


def _is_node_without_keys(cfg: DictConfig, key: str) -> bool:
    """Such as `model.fusion` where the fusion has no parameters, or `logger` where there is none."""
    node = OmegaConf.select(cfg, key, throw_on_missing=False) if not OmegaConf.is_missing(cfg, key) else None
    return isinstance(node, DictConfig) and set(node) <= {"_target_", "_partial_", "_convert_"}


# -- what is read where -----------------------------------------------------------------------------------------------
class Base:
    """Holds what is common.

    Args:
        low, high: bounds.
        seed: of the draws (from 0
            upwards).
    """

    def __init__(self, low: float, high: float, seed: int = 0):
        self.low, self.high, self.seed = low, high, seed


class Derived(Base):
    """Does something worth a phrase of its own (Writer et al., "A Title (in Brackets)", CONF 2020). And more.

    Args:
        seed: of this one. width: inside. every: steps between two.

    Example::

        part: {seed: 3, size: 4}
    """

    def __init__(self, low: float, high: float, seed: int = 0, width: int = 8, every: int = 1, size: int = 2):
        super().__init__(low, high, seed)


@dataclass
class Elsewhere:
    """Types a node; see `suite.config.compose.Composer`.

    first, last: rungs.
    """

    first: int
    last: int
    program: str


def test_meanings_come_from_sections_lists_of_names_lines_of_several_and_bases() -> None:
    assert meanings(Derived, parameters(Derived).names) == {
        "low": "bounds.",
        "high": "bounds.",
        "seed": "of this one.",
        "width": "inside.",
        "every": "steps between two.",
    }
    found = meanings(Elsewhere, parameters(Elsewhere).names)
    assert (found["first"], found["last"]) == ("rungs.", "rungs.")
    assert "config.yaml" in found["program"]


def test_the_phrase_leaves_the_paper_out() -> None:
    assert phrase(Base) == "Holds what is common"
    assert paper(Base) == ""


def test_types_in_words() -> None:
    hints = parameters(Composer).annotations
    assert type_text(hints["config_dir"]) == "Path or null"
    assert type_text(dict[str, int | None]) == "{str: int or null}"
    assert type_text(tuple[int, float]) == "[int, float]"


def test_comments_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(
        "# @package here\n# What it is.\na: 1   # at the end\n# above\n# it\nb:\n  c: x  # one | two\n  d: '#'\n"
    )
    file = read(path, "group")
    assert (file.package, file.head) == ("here", "What it is.")
    assert file.notes == {"a": (3, "at the end"), "b": (6, "above it"), "b.c": (7, ""), "b.d": (8, "")}


def test_a_program_is_a_folder_with_a_config() -> None:
    (chapter,) = [c for c in catalogue(Tree(Path(__file__).parent / "conf")) if c.name == "fake"]
    assert {g.name for g in chapter.groups} == {"experiment", "launcher", "method", "part"}
    assert [p.module for p in chapter.primaries] == ["fake.run"]


def test_a_key_covers_its_names_and_what_users_name() -> None:
    assert covers(Row("a.<name>.b"), "a.x.b")
    assert not covers(Row("a.b"), "a.b.c")
    assert covers(Row("a.b", open=True), "a.b.c")
