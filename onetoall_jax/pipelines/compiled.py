"""Compiled programs kept on disk, for runs and for sampling alike."""

from pathlib import Path

import jax


def use_cache(folder: str) -> None:
    """Keeps compiled programs on disk, so that a restart need not compile again."""
    if folder:
        jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
