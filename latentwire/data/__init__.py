"""Corpora: passages with questions about them."""
