"""Training: the Lightning module and what its step consists of."""
