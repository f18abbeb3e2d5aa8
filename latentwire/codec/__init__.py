"""The wire format: what a latent weighs in bytes, trained through with straight-through gradients."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
