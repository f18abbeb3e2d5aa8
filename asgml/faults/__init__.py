"""Faults of earlier code, replayed one at a time to see what each costs; the exact code knows none of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
