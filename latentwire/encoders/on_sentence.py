"""A part of an encoder that stands on a frozen sentence encoder."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import TypeVar

from torch import Tensor, nn

from callbacks.errors import UserError
from latentwire.lm.sentence import KEY, SentenceModel

Self = TypeVar("Self", bound="OnSentence")


class OnSentence(nn.Module):
    """Holds a frozen sentence encoder, whose weights are neither parameters nor in the state; base beside a module.

    The state has the model's fingerprint and the tokenizer's instead: it is loaded onto the same model only, wherever
    its files lie. The weights follow the module from device to device, not in type.

    Attributes:
        key: the key of the configuration that names the model.
    """

    key = KEY
    source: str
    sentence: SentenceModel

    def stand_on(self, source: str, model: SentenceModel) -> None:
        """Take the model that was loaded from a source."""
        self.source, self.sentence, self._fingerprint = source, model, model.fingerprint()

    def get_extra_state(self) -> Tensor:
        """Return what stands in a state for the frozen model: its fingerprint."""
        return self._fingerprint

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse the state of another sentence encoder. Raises UserError."""
        saved, own = (bytes(x.cpu().tolist()) for x in (state, self._fingerprint))
        for what, part in (("weights", slice(32)), ("tokenizer", slice(32, 64))):
            if saved[part] != own[part]:
                found, expected = (f"{x[part].hex()[:16]}…" for x in (own, saved))
                raise UserError(
                    f"{self.key} {self.source}",
                    f"{what} with the fingerprint {found}",
                    f"{expected}, the {what} that this encoder was trained on",
                    f"set {self.key} to that model's folder",
                )

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.sentence.to(next(chain(self.parameters(), self.buffers())).device)
        return self
