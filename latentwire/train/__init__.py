"""Training: the Lightning module, its batches and its curriculum."""
