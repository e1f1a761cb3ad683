"""Parameters and runs on disk, in Orbax, with their settings beside them."""
