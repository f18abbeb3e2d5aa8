"""The wire format: what a latent weighs in bytes, trained through with straight-through gradients."""
