"""Foreign checkpoints to our parameters and back, by tables of names."""
