"""The wire: encoder, codec and one injector per language model, as one module that is trained and saved."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from callbacks.errors import UserError
from latentwire.adapters.calibration import AT_ONCE
from latentwire.codec import message
from latentwire.codec.base import Codec, Coded
from latentwire.encoders.base import Encoder, Tokens
from latentwire.encoders.slots import LatentLayout
from latentwire.injectors.base import Injector
from latentwire.lm.layout import Prefix
from latentwire.warm_start import digest_of, freeze
from latentwire.wire_parts import FIXED

Self = TypeVar("Self", bound="LatentWire")


class LatentWire(nn.Module):
    """Carries a text to models: encoder -> codec -> [bytes] -> injector of a model -> what that model reads.

    The language models are not part of it: no weight of theirs is in `state_dict()`. LoRA weights that were put on them
    (`adapted`) are, under `lora`.

    Args:
        encoder: the encoder, shared by all models.
        codec: the codec, shared by all models.
        injectors: injectors by model.
        layout: slots of a message, and the budgets that it may be cut to; a ratio curriculum passes others to `latents`
            and `prefix`.
        config: plain values that give a message its meaning (encoder, codec, the encoder's model); see `identity`.
        adapted: LoRA parameters by name, as `FrozenLM.adapt` returned them, by model.
        whole_prompt: whether messages hold the question as well, and only the cue follows them as text.
    """

    def __init__(
        self,
        encoder: Encoder,
        codec: Codec,
        injectors: Mapping[str, Injector],
        layout: LatentLayout,
        config: Mapping[str, Any],
        adapted: Mapping[str, Sequence[tuple[str, nn.Parameter]]] | None = None,
        whole_prompt: bool = False,
    ):
        super().__init__()
        for name in injectors:
            if not name or "." in name:
                raise UserError(f"lms.{name}", f"the name {name!r}", "one without dots", "add +lm@lms.<name>=… instead")
        self.encoder, self.codec, self.layout, self.config = encoder, codec, layout, dict(config)
        self.whole_prompt = whole_prompt
        self.frozen: set[str] = set()  # parts, see `freeze`
        self.provenance: dict[str, dict[str, str]] = {}  # run and SHA-256 of the parts that are taken from other runs
        self.injectors = cast(Mapping[str, Injector], nn.ModuleDict(injectors))
        self.lora = nn.ModuleDict()
        for name, parameters in (adapted or {}).items():
            self.lora[name] = nn.ParameterDict({n.replace(".", "-"): p for n, p in parameters})

    def part(self, name: str) -> nn.Module:
        """Return the module that is a part (`latentwire.wire_parts`), of an injector the one that holds its adapter."""
        kind, _, model = name.partition(".")
        if kind in ("adapter", "injector"):
            injector = self.injectors[model]
            return injector.adapter if kind == "adapter" else injector
        found = self.lora[model] if kind == "lora" else getattr(self, kind)
        assert isinstance(found, nn.Module)
        return found

    def freeze(self, *parts: str) -> None:
        """Keep parts as they are from now on, dropout and codebooks included.

        Raises:
            UserError: a part without a tensor.
        """
        for name in parts:
            freeze(self.part(name), name)
        self.frozen |= set(parts)
        self.train(self.training)

    def refuse_moved(self) -> None:
        """Raise RuntimeError where a part that was taken over and frozen is no longer that of its run."""
        for name in self.frozen & set(self.provenance):
            of = self.provenance[name]
            if digest_of(self.part(name), name) != of["sha256"]:
                raise RuntimeError(f"{name} was frozen and has moved: it is not that of run {of['run']}")

    def fix(self) -> None:
        """Keep encoder and codec as they are from now on, whether they hold tensors or not.

        A model that comes later learns to read messages that exist already.
        """
        for part in (self.encoder, self.codec):
            part.requires_grad_(False)
        self.frozen |= set(FIXED)
        self.train(self.training)

    def train(self: Self, mode: bool = True) -> Self:
        super().train(mode)
        for name in sorted(self.frozen, reverse=True):  # an injector before its adapter
            kind, _, model = name.partition(".")
            self.part(name).eval()
            if kind == "injector":
                self.injectors[model].adapter.train(mode)
        return self

    @property
    def models(self) -> list[str]:
        """The names of the language models that can read it."""
        return list(self.injectors)

    @property
    def slots(self) -> int:
        """The number of latents of a message, all models' together."""
        return self.layout.slots

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return next((t.device for t in [*self.parameters(), *self.buffers()]), torch.device("cpu"))

    def latents(self, tokens: Tokens, layout: LatentLayout | None = None) -> Coded:
        """Return what the receiver of B texts will decode, (B, slots, d_z); differentiable."""
        return self.codec(self.encoder(tokens, layout or self.layout))

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch: int = 64, layout: LatentLayout | None = None) -> Tensor:
        """Return the values that a receiver of texts decodes, (B, slots, d_z), in evaluation mode."""
        training = self.training
        self.eval()
        parts = [
            self.codec(self.encoder.encode(texts[i : i + batch], layout or self.layout)).values
            for i in range(0, len(texts), batch)
        ]
        self.train(training)
        return torch.cat(parts)

    @torch.no_grad()
    def latents_of(self, texts: Sequence[str], batch: int = 64, layout: LatentLayout | None = None) -> Tensor:
        """Return the encoder's latents of texts, (B, slots, d_z), in evaluation mode; the codec has not seen them."""
        training = self.training
        self.eval()
        slots = layout or self.layout
        parts = [self.encoder.encode(texts[i : i + batch], slots) for i in range(0, len(texts), batch)]
        self.train(training)
        return torch.cat(parts)

    def pack(self, z: Tensor, identity: bytes) -> list[bytes]:
        """Write the messages of latents (B, slots, d_z). `identity`: from `identity`."""
        return [message.pack(row, self.codec, identity) for row in z]

    def unpack(self, messages: Sequence[bytes], identity: bytes) -> Tensor:
        """Read messages: the values that their receiver has, (B, slots, d_z)."""
        return torch.stack([message.unpack(m, self.codec, identity) for m in messages]).to(self.device)

    def prefix(self, values: Tensor, model: str, layout: LatentLayout | None = None) -> Prefix:
        """Return what `model` reads for values (B, slots, d_z)."""
        found: Prefix = self.injectors[model]((layout or self.layout).read(values, model))
        return found

    def adapted(self, latents: Tensor, model: str) -> Tensor:
        """Return what the adapter of `model` makes of its latents (B, M, d_z), (B, M, d_adapter), in its own units.

        A unit is what the adapter is calibrated to (`Calibration.unit`), so the RMS is about 1 at the start.
        """
        adapter = self.injectors[model].adapter
        found: Tensor = adapter(latents) / adapter.calibration.unit()
        return found

    def message_bytes(self) -> int:
        """Return the bytes of a message, header, scales, codes, checksum: of the longest where they differ."""
        return message.message_bytes(self.codec, self.slots).total

    def identity(self) -> bytes:
        """Return the 32 bytes that sender and receiver must share; adapters do not count."""
        return message.fingerprint({**self.config, "layout": self.layout.identity()}, self.encoder, self.codec)

    @torch.no_grad()
    def calibrate(self, texts: Sequence[str], layout: LatentLayout | None = None, codec: bool = True) -> None:
        """Fill what is measured once, on training texts: the codec's codebooks, then where every injector starts.

        Everything goes through in batches of `AT_ONCE` texts. Only the latents, slots * d_z numbers a text, are kept of
        all of them.

        Args:
            texts: the training texts.
            layout: slots in the first period of training; None: those of the messages.
            codec: whether the codec is calibrated as well, and not one that has learned already.
        """
        layout = layout or self.layout
        batches = [self.encoder.tokenize(texts[i : i + AT_ONCE]).to(self.device) for i in range(0, len(texts), AT_ONCE)]
        training = self.training
        self.train()
        z = torch.cat([self.encoder(tokens, layout) for tokens in batches])
        if codec:
            self.codec.calibrate(z)
            self.codec(z)
        self.eval()
        values = self.codec(torch.cat([self.encoder(tokens, layout) for tokens in batches])).values
        for name, injector in self.injectors.items():
            read = layout.in_text_order(layout.read(values, name), name)
            injector.calibrate(read, texts, layout.counts(name))
        self.train(training)

    @torch.no_grad()
    def refit(self, texts: Sequence[str], layout: LatentLayout, models: Collection[str] | None = None) -> None:
        """Start what lies behind the adapters anew from training texts, for an encoder and adapters that have moved.

        Args:
            texts: the training texts.
            layout: the slots.
            models: the language models whose injectors start anew; None: all.
        """
        values = self.encode(texts, layout=layout)
        for name in self.injectors if models is None else models:
            read = layout.in_text_order(layout.read(values, name), name)
            self.injectors[name].refit(read, texts, layout.counts(name))

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Return trainable parameters by group: `encoder`, `codec`, `adapter:<lm>`, `injector:<lm>`, `lora:<lm>`.

        Each is in exactly one group, and groups without any are left out.
        """
        found = {"encoder": list(self.encoder.parameters()), "codec": list(self.codec.parameters())}
        for name, injector in self.injectors.items():
            own = list(injector.adapter.parameters())
            taken = {id(p) for p in own}
            found[f"adapter:{name}"] = own
            found[f"injector:{name}"] = [p for p in injector.parameters() if id(p) not in taken]
        for name, lora in self.lora.items():
            found[f"lora:{name}"] = list(lora.parameters())
        trainable = {group: [p for p in params if p.requires_grad] for group, params in found.items()}
        return {group: params for group, params in trainable.items() if params}

    def gains(self) -> dict[str, float]:
        """Return the mean learnable gain of each injector's calibrations, by model; 1 at the start."""
        out = {}
        for name, injector in self.injectors.items():
            gains = [p.detach().float().mean() for n, p in injector.named_parameters() if n.split(".")[-1] == "gain"]
            if gains:
                out[name] = float(torch.stack(gains).mean())
        return out
