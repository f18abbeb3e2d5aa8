"""Adapters: latent width d_z to the width of one language model, calibrated to its measured scale."""
