"""Surfaces with defects: the published layouts, a generator in one of them, protocols and tensors."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
