"""The multimodal network: encoders, fusion and unimodal heads, free of Lightning and Hydra."""
