"""Injectors: how a frozen language model reads the latents."""
