"""Evaluation: what tools and policies are worth, measured against references."""
