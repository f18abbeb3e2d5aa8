"""Who may know whom, and what no file does. Read from the syntax trees; nothing of the programs is run."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import yaml

from suite.config.signature import locate, parameters

ROOT = Path(__file__).parents[2]
PACKAGES = ("suite", "callbacks", "asgml", "latentwire")
CONF = ROOT / "conf"

FORBIDDEN = {
    "suite": {"asgml", "latentwire"},
    "callbacks": {"suite", "asgml", "latentwire"},
    "asgml": {"latentwire"},
    "latentwire": {"asgml"},
}
# The maths of every method reads, tests and runs without the shell around it.
MATHS = ("asgml/model", "asgml/methods", "asgml/rhythm/schedule.py", "asgml/rhythm/dynamics.py")
SHELL = {"lightning", "pytorch_lightning", "hydra", "omegaconf"}
UNSAFE = {"cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def sources(*places: str) -> list[Path]:
    found: list[Path] = []
    for place in places:
        path = ROOT / place
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.exists() else []
    return found


def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[0] if node.level else (node.module or "").split(".")[0]
            yield node.lineno, package
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield node.lineno, str(node.args[0].value).split(".")[0]


def wrong_imports(files: list[Path], forbidden: set[str]) -> list[str]:
    return [
        f"{p.relative_to(ROOT)}:{line} imports {name}" for p in files for line, name in imports(p) if name in forbidden
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_import_arrows(package: str) -> None:
    assert wrong_imports(sources(package), FORBIDDEN[package]) == []


def test_callbacks_know_only_torch_and_lightning() -> None:
    known = {"callbacks", "torch", "lightning", "numpy", "wandb", "lazy_loader"}
    for path in sources("callbacks"):
        others = [(n, m) for n, m in imports(path) if m not in known and m not in sys.stdlib_module_names]
        assert others == [], f"{path}: usable in anybody's project"


def home(module: str, name: str) -> Path | None:
    """The file that `from module import name` reads: a submodule, the module, or where a package exports it from."""
    place = ROOT / Path(*module.split("."))
    for file in (place / f"{name}.py", place / name / "__init__.py", place.with_suffix(".py")):
        if file.exists():
            return file
    stub = place / "__init__.pyi"
    if stub.exists():
        for node in ast.walk(syntax(stub)):
            if isinstance(node, ast.ImportFrom) and any(a.name == name for a in node.names):
                return place / Path(*str(node.module).split(".")).with_suffix(".py")
    return place / "__init__.py" if (place / "__init__.py").exists() else None


def test_there_is_no_circle_of_files() -> None:
    """Imports inside functions and under TYPE_CHECKING count too."""
    reads: dict[Path, set[Path]] = {}
    for path in sources(*PACKAGES):
        found: set[Path] = set()
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
                found |= {f for a in node.names if (f := home(str(node.module), a.name)) is not None}
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    package, _, name = alias.name.rpartition(".")
                    if alias.name.split(".")[0] in PACKAGES and package:
                        found |= {f for f in (home(package, name),) if f is not None}
        reads[path] = found
    assert sum(map(len, reads.values())) > 500, "the imports are not seen"
    try:
        tuple(TopologicalSorter(reads).static_order())
    except CycleError as error:
        circle = " -> ".join(str(p.relative_to(ROOT)) for p in error.args[1])
        pytest.fail(f"a circle of imports: {circle}")


def test_no_file_is_longer_than_400_lines() -> None:
    long = {
        str(p.relative_to(ROOT)): n
        for p in sources(*PACKAGES, "tests")
        if (n := len(p.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}, "one idea per file: split it"


def test_the_maths_knows_no_shell() -> None:
    assert wrong_imports(sources(*MATHS), SHELL) == []


def test_nothing_unpickles() -> None:
    assert wrong_imports(sources(*PACKAGES), UNSAFE) == []
    for path in sources(*PACKAGES):
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.ImportFrom):
                assert node.module != "pickle", f"{path}:{node.lineno}"
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
                assert node.attr == "UnpicklingError", f"{path}:{node.lineno}: only torch.load's error may be named"
            if isinstance(node, ast.Call):
                flags = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert flags.get("allow_pickle") != "True", f"{path}:{node.lineno}"
                assert flags.get("weights_only") != "False", f"{path}:{node.lineno}"


def test_no_exception_is_swallowed() -> None:
    for path in sources(*PACKAGES):
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.ExceptHandler):
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert not all(does_nothing(line) for line in node.body), f"{where}: except: pass"
                assert node.type is not None, f"{where}: bare except"
            if isinstance(node, ast.Call):
                suppressed = ast.unparse(node.func) in ("contextlib.suppress", "suppress")
                assert not suppressed, f"{path.relative_to(ROOT)}:{node.lineno}: suppress"


def does_nothing(line: ast.stmt) -> bool:
    return isinstance(line, ast.Pass) or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))


def targets() -> list[tuple[str, str]]:
    """Every `_target_` in conf/, with the file and key it stands at."""

    def walk(node: object, where: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, dict):
            if isinstance(node.get("_target_"), str):
                yield where, node["_target_"]
            for key, child in node.items():
                yield from walk(child, f"{where}:{key}")
        elif isinstance(node, list):
            for child in node:
                yield from walk(child, where)

    return [
        found
        for path in sorted(CONF.rglob("*.yaml"))
        for found in walk(yaml.safe_load(path.read_text(encoding="utf-8")), str(path.relative_to(ROOT)))
        if "${" not in found[1]
    ]


def is_public(path: str) -> bool:
    """Whether a dotted path is a name that a package exports, or an attribute of one (`FrozenLM.load`)."""
    parts = path.split(".")
    packages = [n for n in range(1, len(parts)) if (ROOT / Path(*parts[:n]) / "__init__.pyi").exists()]
    if not packages:
        return False
    package, name = ROOT / Path(*parts[: packages[-1]]), parts[packages[-1]]
    stub = syntax(package / "__init__.pyi")
    return any(a.name == name for n in ast.walk(stub) if isinstance(n, ast.ImportFrom) for a in n.names)


@pytest.mark.parametrize(("where", "path"), targets())
def test_every_target_in_conf_resolves_and_names_its_parameters(where: str, path: str) -> None:
    target = locate(path)
    assert callable(target), where
    accepted = parameters(target)
    if path.split(".")[0] in PACKAGES:
        assert is_public(path), f"{where}: {path} names a module, which may move; export it in a package's __init__.pyi"
        assert not accepted.kwargs, f"{where}: {path} takes **kwargs, a misspelt key would vanish"
        signature = inspect.signature(target).parameters
        untyped = [
            name
            for name in accepted.names
            if name not in accepted.annotations and signature[name].annotation not in ("Any", Any)
        ]
        assert untyped == [], f"{where}: {path} leaves {untyped} without a type that can be checked"


def test_every_group_file_is_yaml() -> None:
    for path in sorted(CONF.rglob("*")):
        if path.is_file():
            assert path.suffix == ".yaml", f"{path.relative_to(ROOT)}: conf/ holds YAML only"
