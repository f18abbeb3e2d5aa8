"""Frozen language models: prompts, exact scoring and generation, pocket models, conversion."""
