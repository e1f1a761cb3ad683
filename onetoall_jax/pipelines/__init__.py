"""Assembled things: the only room where all others meet."""
