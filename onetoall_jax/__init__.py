"""One-to-All character animation in JAX; importing this package imports nothing else."""
