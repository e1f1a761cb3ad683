"""The one attention entry, its kernels for each device, its forms over many devices."""

from onetoall_jax.models.attention.entry import attend
from onetoall_jax.models.attention.kernels import OUTPUT
from onetoall_jax.models.attention.settings import AttentionConfig, Blocks, Tuned

__all__ = ["OUTPUT", "AttentionConfig", "Blocks", "Tuned", "attend"]
