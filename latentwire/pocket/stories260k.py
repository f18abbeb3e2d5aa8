"""stories260K: a real model of 260 000 parameters, read from llama2.c's two files.

It is Karpathy's (github.com/karpathy/llama2.c), trained on TinyStories (Eldan and Li, 2023).
"""

from __future__ import annotations

from pathlib import Path

from callbacks.errors import UserError
from latentwire.lm.frozen import FrozenLM
from latentwire.pocket.llama2c_files import read_model, read_tokenizer
from suite.runs.reads import Arguments, reads


def _files(arguments: Arguments) -> dict[str, Path]:
    return {name: Path(arguments[name]) for name in ("checkpoint", "tokenizer")}


@reads(given=_files)
def load_stories260k(checkpoint: str, tokenizer: str, device: str = "cpu", name: str = "stories260k") -> FrozenLM:
    """Load stories260K, converted in memory, float32.

    Args:
        checkpoint: file of the weights, in llama2.c's legacy format.
        tokenizer: file of the 512 pieces.
        device: device to compute on.
        name: the model's name in tables and errors.

    Raises:
        UserError: a file is missing or damaged.
    """
    for path in (checkpoint, tokenizer):
        if not Path(path).is_file():
            raise UserError(
                path,
                "no such file",
                "stories260K's checkpoint in llama2.c's legacy format, and its tokenizer of 512 pieces",
                "fetch stories260K.bin and tok512.bin (huggingface.co/karpathy/tinyllamas, folder stories260K); set "
                "paths.data to the folder that holds stories260k/, or lms.stories260k.checkpoint, "
                "lms.stories260k.tokenizer, corpus.teller.checkpoint and corpus.teller.tokenizer to the files",
            )
    model = read_model(checkpoint)
    return FrozenLM(model, read_tokenizer(tokenizer, model.config.vocab_size), name, is_chat=False).to(device)
