"""Fusions: features of all modalities -> logits; an absent modality contributes exactly nothing."""
