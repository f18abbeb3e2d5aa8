"""Adapters: latent width d_z to the width of one language model, calibrated to its measured scale."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
