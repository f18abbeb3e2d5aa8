"""Objectives: what the latents are trained for. Pure functions on tensors, and small classes that weigh them."""
