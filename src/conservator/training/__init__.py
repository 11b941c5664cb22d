"""Training: how everything that ships is made."""
