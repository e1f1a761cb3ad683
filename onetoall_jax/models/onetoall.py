"""The denoiser's parameters, and the pure functions that use them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from onetoall_jax import axes
from onetoall_jax.models import passes
from onetoall_jax.models.attention import AttentionConfig
from onetoall_jax.models.denoiser import Conditions, Model, Params
from onetoall_jax.models.dit import Modulation
from onetoall_jax.models.modules import DEFAULT_ATTENTION, modules
from onetoall_jax.models.rope import Rope
from onetoall_jax.models.settings import ModelConfig


class Functions(NamedTuple):
    """The model as pure functions; see `functions`."""

    conditions: Callable[..., Conditions]
    reference_features: Callable[..., jax.Array | None]
    velocity: Callable[..., jax.Array]
    prepare: Callable[..., Any]
    velocities: Callable[..., list[jax.Array]]
    pass_bytes: Callable[[tuple[int, ...]], int]


def init(cfg: ModelConfig, key: jax.Array) -> Params:
    """Fresh parameters, boxed with logical axis names (`flax.linen.meta.unbox`).

    Every layer starts as the release's layers do: uniform in +-1/sqrt(fan_in), norms
    at one, and zero for the layers that join a new part to a trained one.
    """
    net = modules(cfg)
    keys = iter(jax.random.split(key, 32))
    row = jnp.zeros((1, cfg.dim))
    tokens = jnp.zeros((1, 1, cfg.dim))
    rope = Rope((1, 1, 1), cfg.head_dim, cfg.rope_theta)
    mod = Modulation(jnp.zeros((1, 6, cfg.dim)))

    def one(module: nn.Module, *args: Any) -> Params:
        return module.init(next(keys), *args)["params"]

    def embeddings(channels: int) -> Params:
        return {
            "patch_embedding": one(net.patch, jnp.zeros((1, *cfg.patch, channels))),
            "time_embedding": one(net.time, jnp.zeros(1)),
            "time_projection": one(net.time_projection, row),
        }

    def projections(length: int) -> Params:
        stacked = jax.vmap(lambda k: net.zeros.init(k, row)["params"])(
            jax.random.split(next(keys), length)
        )
        return nn.meta.add_axis(stacked, 0, {nn.PARTITION_NAME: axes.LAYERS})

    full = (tokens, mod, rope, tokens, tokens)
    dit = embeddings(cfg.in_channels)
    dit["text_embedding"] = one(net.text, jnp.zeros((1, 1, cfg.text_dim)))
    if cfg.lead_layers:
        dit["lead_blocks"] = net.blocks.init(next(keys), cfg.lead_layers, *full)
    rest = cfg.num_layers - cfg.lead_layers
    if rest:
        dit["blocks"] = net.blocks.init(next(keys), rest, *full)
    dit["head"] = one(net.head, tokens, Modulation(jnp.zeros((1, 1, cfg.dim))))
    params = {"dit": dit}
    if cfg.reference_layers:
        params["reference_extractor"] = {
            **embeddings(cfg.reference_channels),
            "blocks": net.extractor.init(
                next(keys), cfg.reference_layers, tokens, mod, rope
            ),
            "projections": projections(cfg.reference_layers + 1),
        }
    if cfg.pose_layers:
        latents = jnp.zeros((1, 1, 1, 1, cfg.reference_channels))
        params["prefix_encoder"] = one(net.prefix, latents)
        params["pose_resnet"] = one(net.pose, jnp.zeros((1, 1, 16, 16, 3)))
        params["pose_control"] = {
            "blocks": net.control.init(next(keys), cfg.pose_layers, tokens, mod, rope),
            "projections": projections(cfg.pose_layers),
        }
    return params


def abstract(cfg: ModelConfig) -> Params:
    """Shapes and types of `init`, unboxed, without making any array."""
    boxed = jax.eval_shape(lambda key: init(cfg, key), jax.random.key(0))
    return nn.meta.unbox(boxed)


def functions(
    cfg: ModelConfig,
    *,
    dtype: jnp.dtype = jnp.float32,
    remat: str = "none",
    attention: AttentionConfig = DEFAULT_ATTENTION,
) -> Functions:
    """The model as three pure functions of plain (unboxed) parameters.

    conditions(params, text, reference=None, pose=None, reference_pose=None,
               pose_scale=1.0) -> Conditions
      text [B,L,text_dim] or Text; reference [B,1,h,w,2C]; pose [B,F,H,W,3] and
      reference_pose [B,1,H,W,3], bytes or in -1..1 (both or neither); pose_scale a
      number or [B].
    reference_features(params, reference, timestep) -> [M+1,B,R,D] or None; over a mesh
      whose devices share the tokens, R is one whole copy for each of them
    velocity(params, latents, timestep, conditions, features=None, context=None) ->
      predicted noise - data, shaped as latents [B,f,h,w,C]; timestep [B] in 0..1000;
      context [B] bool: there the first CONTEXT_FRAMES latent frames are clean and
      take the modulation of timestep 0 (their output means nothing).

    And for the passes of guidance, `rows` of type `passes.Pass`:

    prepare(params, rows, texts, references, poses, *, together=False) -> conditions
      texts and references by name; poses name -> (pose, reference_pose) or Nones.
    velocities(params, latents, timestep, rows, conditions, features, context=None, *,
               together=False) -> one velocity a row
      conditions of `prepare`; features by name of the reference.
      together: all passes as one batch, which a mesh may spread over its devices;
        else one after another.
    pass_bytes(shape) -> bytes that a pass of one clip needs beside the parameters, for
      latents [B,f,h,w,C] of this shape

    Args:
      dtype: of the computation; parameters are cast where they are used.
      remat: what is kept for the backward pass, a name in `dit.REMAT`.
      attention: its form.
    Source: sections 2, 7, 10, 11 of the released model.
    """
    model = Model(cfg, dtype, modules(cfg, dtype, remat, attention))
    return Functions(
        model.conditions,
        model.reference_features,
        model.velocity,
        functools.partial(passes.prepare, model),
        functools.partial(passes.velocities, model),
        model.pass_bytes,
    )
