"""Which weights a frozen model has, and that they belong in no file."""

from __future__ import annotations

from typing import Any, TypeVar

from callbacks.errors import UserError
from latentwire.lm import loading

Self = TypeVar("Self", bound="Identified")


class Identified:
    """Knows a model by its weights; base of `FrozenLM`.

    Attributes:
        name: its name in errors.
    """

    name: str
    _base: Any = ()

    def fingerprint(self) -> str:
        """Return `loading.fingerprint` of the base weights as they are now; adapters do not count."""
        return loading.fingerprint(self._base)

    def verify(self, fingerprint: str) -> None:
        """Raise UserError where the weights are not those of the fingerprint."""
        if (now := self.fingerprint()) != fingerprint:
            remedy = "set lms.<model>.source to the model that the run was made with"
            raise UserError(f"weights of {self.name}", now[:16], fingerprint[:16], remedy)

    def __deepcopy__(self: Self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(f"{self.name} is frozen and belongs in no file: keep its source and fingerprint, load it again")
