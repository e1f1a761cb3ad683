"""One file for each experiment one would launch."""
