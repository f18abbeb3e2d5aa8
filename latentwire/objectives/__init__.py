"""Objectives: what the latents are trained for. Pure functions on tensors, and small classes that weigh them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
