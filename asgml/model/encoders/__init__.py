"""Encoders: `(n, *shape) -> (n, out_dim)`, one modality each."""
