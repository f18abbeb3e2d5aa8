"""Encoders: text to M latent vectors of width d_z."""
