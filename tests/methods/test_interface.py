"""What holds for every registered method: what its file imports, what its constructor takes, and what it refuses."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import pytest
from alternatives import OWN, REFUSED, target
from asgml_runs import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser

from callbacks.errors import UserError


def test_no_method_imports_another_one():
    shared = re.compile(r"asgml\.methods(\.base|\.shared\.\w+)|(?!asgml\.methods).*")
    for path in (ROOT / "asgml" / "methods").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert all(shared.fullmatch(name or "") for name in names), (path.name, names)


@pytest.mark.parametrize("name", OWN)
def test_every_parameter_is_public_and_documented(name: str) -> None:
    """State is no parameter, so that no YAML can set it."""
    documented = re.findall(r"^        (\w+): ", (target(name).__doc__ or "").partition("    Attributes:\n")[2], re.M)
    assert documented == list(inspect.signature(target(name)).parameters)
    assert not [p for p in documented if p.startswith("_")]


@pytest.mark.parametrize("name", [n for n in OWN if target(n).min_modalities > 1])
def test_too_few_modalities_are_refused_by_the_name_of_the_method(name: str) -> None:
    with pytest.raises(UserError) as caught:
        target(name)().prepare(name, ["audio"], 3, 0)
    found = (caught.value.where, caught.value.found, caught.value.expected, caught.value.remedy)
    assert found == (f"method={name}", "1 modality: audio", "2 or more modalities", "method=joint")


@pytest.mark.parametrize(
    ("name", "key", "value"), [(n, k, v) for n, keys in REFUSED.items() for k, values in keys.items() for v in values]
)
def test_a_value_without_a_meaning_is_refused_and_the_remedy_works_as_typed(name: str, key: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        target(name)(**{key: value}).prepare(name, ["audio", "visual"], 3, 0)
    typed = OverridesParser.create().parse_override(caught.value.remedy)
    assert caught.value.where == typed.key_or_group == f"methods.{name}.{key}"
    target(name)(**{key: typed.value()}).prepare(name, ["audio", "visual"], 3, 0)


def test_to_keep_learning_rates_there_must_be_some() -> None:
    with pytest.raises(UserError, match=r"methods\.mslr\.factors=\{audio:0\.1\}"):
        target("mslr")("keep").prepare("mslr", ["audio", "visual"], 3, 0)


def test_a_method_begins_with_the_hyper_parameter_that_it_names() -> None:
    said = {}
    for name in OWN:
        method = target(name)()
        key, first = method.acts_from()
        assert first == (getattr(method, key) if key else 0)
        if key:
            said[name] = key
    periods = {"aug": "every", "gblending": "super_epoch", "mslr": "history", "relearn": "every"}
    assert said == dict.fromkeys(("agm", "arl", "greedy", "ogm_ge", "opm", "remix", "valuation"), "begins") | periods
