"""Data: sources (one file each), the batch reader and the Lightning data module."""
