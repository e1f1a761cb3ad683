"""The text encoder."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from onetoall_jax.conversion import apply
from onetoall_jax.models import umt5
from tools.parity.case import Case

CEILING = {"*": {"rel_l2": 2e-4, "max_abs": 2e-3}}


def run(case: Case, dtype: jnp.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """Embeddings with padding rows at zero."""
    c = case.config
    cfg = umt5.UMT5Config(
        vocab_size=c["vocab_size"],
        dim=c["d_model"],
        num_layers=c["num_layers"],
        num_heads=c["num_heads"],
        head_dim=c["d_kv"],
        mlp_dim=c["d_ff"],
        num_buckets=c["relative_attention_num_buckets"],
        max_distance=c["relative_attention_max_distance"],
        eps=c["layer_norm_epsilon"],
    )
    tensors = case.weights()
    if "shared.weight" in tensors:
        tensors.pop("encoder.embed_tokens.weight", None)
    params = apply.convert("umt5", tensors, umt5.abstract(cfg))
    encode = jax.jit(lambda p, i, m: umt5.encode(cfg, p, i, m, dtype=dtype))
    out = encode(params, case.inputs["input_ids"], case.inputs["attention_mask"])
    yield "prompt_embeds", np.asarray(out, np.float32)
