"""Frozen language models: prompts, exact scoring and generation, and what is measured on one answer."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
