"""A frozen CLIP with residual adapters in both towers, which read each other over several feedback loops."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
