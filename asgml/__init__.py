"""Asynchronous, staleness-guided multimodal learning."""
