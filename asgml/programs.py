"""A network as a program that runs without this suite: `torch.export`, or ONNX where it is installed."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from asgml.train.network import Inputs, Network, drawn_inputs
from callbacks.errors import UserError

if TYPE_CHECKING:
    from asgml.restore import Restored

FILES = {"pt2": "network.pt2", "onnx": "network.onnx"}
TOLERANCE = 1e-5  # of probabilities in float32: other kernels add in another order
NEEDED = {"pt2": (), "none": (), "onnx": ("onnx", "onnxscript")}
Program = Callable[[Inputs], dict[str, Tensor]]


def require(form: str) -> None:
    """Refuse a form whose packages are not installed."""
    missing = [p for p in NEEDED[form] if importlib.util.find_spec(p) is None]
    if missing:
        raise UserError(
            f"--format {form}",
            f"{' and '.join(missing)} not installed",
            f"the packages that write {FILES[form]}",
            f"pip install {' '.join(missing)}, or take --format pt2, which needs none",
        )


def write(run: Restored, folder: Path, form: str) -> None:
    """Write a network as a program for any number of rows; with the form `none`, nothing.

    Args:
        run: the run.
        folder: the folder of the file.
        form: `pt2`, `onnx` or `none`.

    Raises:
        UserError: a network that torch.export cannot follow.
    """
    if form == "none":
        return
    program = traced(run)
    path = folder / FILES[form]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "pt2":
            torch.export.save(program, path)
        else:
            names = list(program.module()(*program.example_inputs[0]))
            torch.onnx.export(program, f=str(path), dynamo=True, external_data=False, output_names=names)


def traced(run: Restored) -> torch.export.ExportedProgram:
    """Return the network of a run as a program whose number of rows is free.

    Raises:
        UserError: a part that torch.export cannot follow.
    """
    network = Network(run.module.cpu().eval()).eval()
    inputs = drawn_inputs(run.data.spec, 4, 0, next(network.parameters()).dtype)
    batch = torch.export.Dim("batch", min=1)
    free = tuple({m: {0: batch} for m in part} for part in inputs)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(network, inputs, dynamic_shapes=free)
    except Exception as error:  # torch.export raises whatever the network's own code does under symbolic shapes
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise UserError(
            "torch.export of the network",
            f"{type(error).__name__}: {first}",
            "encoders, fusion and methods that it can follow: no branches on values, any number of rows",
            "add --format none: the weights leave without a program, for asgml.export.load",
        ) from error


def read(path: Path, form: str) -> Program:
    """Return a written program as a function of inputs.

    Args:
        path: the file.
        form: `pt2` or `onnx`.
    """
    if form == "onnx":
        return _onnx(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(path).module()

    def run(inputs: Inputs) -> dict[str, Tensor]:
        with torch.no_grad():
            return module(*inputs)

    return run


def _onnx(path: Path) -> Program:
    reference: Any = importlib.import_module("onnx.reference").ReferenceEvaluator(str(path))

    def run(inputs: Inputs) -> dict[str, Tensor]:
        flat = [t.numpy() for t in pytree.tree_leaves(inputs)]
        values = reference.run(None, dict(zip(reference.input_names, flat, strict=True)))
        return {name: torch.from_numpy(value) for name, value in zip(reference.output_names, values, strict=True)}

    return run
