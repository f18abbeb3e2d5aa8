"""LatentWire: a learned wire of latents between frozen language models."""
