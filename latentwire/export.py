"""Part a wire into its ends: `python -m latentwire.export RUN -o DIR [--reader NAME]`.

    DIR/writer/           writer.json, writer.safetensors: encoder and codec
    DIR/readers/<name>/   reader.json, reader.safetensors: codec, adapter,
                          injector and LoRA of one language model

Each is all that its side needs beside the weights of its language model: `latentwire.encode DIR/writer` and
`latentwire.answer message.wire --bundle DIR/readers/<name>`. Nothing of the corpus, of the run or of earlier runs is in
them or read by them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks.errors import UserError
from suite.runs.command import command, command_parser

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import nn

    from latentwire.ends import Reader
    from latentwire.lm.frozen import FrozenLM
    from latentwire.restore import Loaded


def export(loaded: Loaded, folder: Path, readers: Sequence[str] | None = None) -> list[Path]:
    """Write the bundles of a run; return their folders, the writer's first.

    Args:
        loaded: the run, as `latentwire.restore.load` returned it.
        folder: the folder, which may not exist yet, or is empty.
        readers: names of the models that get a bundle; None: all.

    Raises:
        UserError: a folder that is not empty or takes no files, or a model that is no reader of the run.

    After an error, a full disk for one, the folder is as it was: the same command can be given again.
    """
    from latentwire import bundle
    from suite.runs.exported import new_folder

    known = loaded.wire.models
    for name in readers or ():
        if name not in known:
            raise UserError(f"--reader {name}", "no reader of this run", " | ".join(known), f"give --reader {known[0]}")
    wanted = [loaded.reader(name) for name in (loaded.wire.models if readers is None else readers)]
    cfg, wire = loaded.cfg, loaded.wire
    common = {
        "identity": loaded.identity.hex(),
        "config_hash": loaded.hash,
        "d_z": int(cfg.wire.d_z),
        "layout": {
            "shared": wire.layout.shared,
            "private": dict(wire.layout.private),
            "order": list(wire.layout.private),  # which keys of a JSON file do not keep
            "budgets": list(wire.layout.budgets),
            "spread": wire.layout.spread,
            "apart": wire.layout.apart,
        },
        "track": str(cfg.wire.track),
        "codec": _plain(cfg.codec),
    }
    lm = wire.encoder.lm
    node = next(iter(cfg.lms.values())) if cfg.encoder_lm is None else cfg.encoder_lm
    settings = {"encoder": _plain(cfg.encoder), "encoder_lm": None if lm is None else _needed(node, lm)}
    with new_folder(folder):
        made = [folder / "writer"]
        bundle.write(made[0], "writer", common | settings, _state(encoder=wire.encoder, codec=wire.codec))
        return made + [_write_reader(reader, loaded, common, folder / "readers" / reader.name) for reader in wanted]


def _write_reader(reader: Reader, loaded: Loaded, common: Mapping[str, Any], folder: Path) -> Path:
    from latentwire import bundle

    cfg, wire, name = loaded.cfg, loaded.wire, reader.name
    settings = {
        "model": name,
        "lm": _needed(cfg.lms[name], reader.lm),
        "adapter": _plain(cfg.adapter),
        "injector": _plain(cfg.injector),
        "adaptation": _plain(cfg.adaptation[name]) if name in cfg.adaptation else None,
        "max_new_tokens": reader.max_new_tokens,
    }
    parts: dict[str, nn.Module] = {"codec": wire.codec, "injector": reader.injector}
    if name in wire.lora:
        parts["lora"] = wire.lora[name]
    bundle.write(folder, "reader", {**common, **settings}, _state(**parts))
    return folder


def _needed(node: DictConfig, lm: FrozenLM) -> dict[str, Any]:
    """Return what a bundle says of the language model that it needs."""
    return {"node": _plain(node), "weights": lm.fingerprint(), "tokenizer": lm.style.fingerprint()}


def _plain(node: DictConfig) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True)


def _state(**parts: nn.Module) -> dict[str, Any]:
    return {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = command_parser("python -m latentwire.export", __doc__)
    p.add_argument("run", type=Path, help="directory of the finished run")
    p.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="a new folder")
    p.add_argument("--reader", action="append", metavar="NAME", help="a model that gets a bundle (default: all)")
    p.add_argument("--which", choices=["best", "last"], default="best", help="checkpoint (default: best)")
    return p


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = parser().parse_args(argv)

    from latentwire.restore import load

    for made in export(load(args.run, args.which), args.out, args.reader):
        size = sum(p.stat().st_size for p in made.iterdir())
        print(f"{made}  {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
