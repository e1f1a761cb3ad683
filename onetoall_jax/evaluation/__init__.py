"""Measures on frames, wherever they come from."""
