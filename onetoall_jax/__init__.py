"""One-to-All character animation in JAX; importing it imports nothing else."""
