"""The pocket language models: made, trained, stored and loaded by this package."""
