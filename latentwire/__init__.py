"""LatentWire: a learned wire of latents between frozen language models."""

import lazy_loader

from callbacks.beginning import begin

begin()


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
