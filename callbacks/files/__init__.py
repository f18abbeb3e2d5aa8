"""Files on disk: written in one piece, and sealed with the SHA-256 of what they hold."""
