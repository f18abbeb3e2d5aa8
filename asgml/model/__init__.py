"""The multimodal network: encoders, fusion and unimodal heads, free of Lightning and Hydra."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
