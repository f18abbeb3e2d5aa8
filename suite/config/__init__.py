"""Configuration: compose, check, build."""
