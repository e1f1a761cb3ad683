"""Everything a training step draws, from one key for each clip."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from onetoall_jax import rng
from onetoall_jax.training.settings import TrainingConfig


class Draws(NamedTuple):
    """Random values of one batch.

    Attributes:
      time: [B] in (0, 1), logit-normal.
      noise: [B,f,h,w,C], standard normal.
      context: [B] bool, clips whose first latent frames are given clean.
      reference_chosen: [B] bool, references that get noise.
      reference_log_size: [B], logarithm of that noise's size.
      reference_noise: [B,H,W,3], standard normal.
    """

    time: jax.Array
    noise: jax.Array
    context: jax.Array
    reference_chosen: jax.Array
    reference_log_size: jax.Array
    reference_noise: jax.Array


def draw(
    key: jax.Array,
    clips: int,
    latents: tuple[int, ...],
    picture: tuple[int, ...],
    config: TrainingConfig,
    token_replace_probability: jax.typing.ArrayLike,
) -> Draws:
    """Draws of one step; a clip's depend on the key and its place in the batch only.

    Args:
      key: of the step.
      latents, picture: shapes of one clip's latents and one reference picture.
    """
    keys = jax.random.split(key, clips)
    if config.shared_draws:
        keys = jnp.broadcast_to(keys[:1], keys.shape)
    noise = config.reference_noise

    def one(key: jax.Array) -> Draws:
        def at(name: str) -> jax.Array:
            return rng.stream(key, name)

        size = jax.random.normal(at("reference_log_size"))
        return Draws(
            time=jax.nn.sigmoid(jax.random.normal(at("time"))),
            noise=jax.random.normal(at("noise"), latents),
            context=jax.random.bernoulli(at("context"), token_replace_probability),
            reference_chosen=jax.random.bernoulli(
                at("reference_chosen"), noise.probability
            ),
            reference_log_size=noise.log_mean + noise.log_std * size,
            reference_noise=jax.random.normal(at("reference_noise"), picture),
        )

    return jax.vmap(one)(keys)
