"""How the model of one stage becomes the start of the next."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from onetoall_jax import trees
from onetoall_jax.models import onetoall
from onetoall_jax.models.settings import ModelConfig

Params = Any

_SELF = ("query", "key", "value", "out", "query_norm", "key_norm")


def grow(
    params: Params, cfg_from: ModelConfig, cfg_to: ModelConfig, key: jax.Array
) -> Params:
    """Parameters of a larger model that starts where the smaller one stands.

    Plain Wan -> stage 1 adds the reference extractor, copied from the first blocks,
    and fresh reference keys and values; stage 1 -> stage 2 adds prefix, PoseResNet and
    pose-control blocks, copied likewise. Every projection that joins a new part is
    zero. Equal settings return the parameters unchanged.

    Args:
      params: plain tree of a model of `cfg_from`.
      cfg_to: same base; may have reference_layers and pose_layers where `cfg_from` has
        none.
      key: draws what is fresh.
    Raises:
      ValueError: `cfg_to` differs in more than the parts that may be added.
    Source: section 7 of the released checkpoints' page; training scripts of the stages.
    """
    if cfg_from == cfg_to:
        return params
    bare: dict[str, Any] = {"reference_layers": 0, "pose_layers": 0}
    grown = ("reference_layers", "pose_layers")
    if dataclasses.replace(cfg_from, **bare) != dataclasses.replace(cfg_to, **bare) or (
        any(getattr(cfg_from, g) not in (0, getattr(cfg_to, g)) for g in grown)
    ):
        raise ValueError(f"{cfg_from} cannot grow into {cfg_to}")
    fresh = nn.meta.unbox(onetoall.init(cfg_to, key))
    blocks = _all_blocks(params["dit"])
    new = trees.flatten(fresh)
    new.update(trees.flatten(_placed(params, blocks, cfg_to)))
    if not cfg_from.reference_layers:
        extractor = _extractor(params, blocks, cfg_to.reference_layers)
        new.update(trees.flatten({"reference_extractor": extractor}))
    if cfg_to.pose_layers and not cfg_from.pose_layers:
        copied = {"blocks": _plain(blocks, cfg_to.pose_layers)}
        new.update(trees.flatten({"pose_control": copied}))
    return trees.unflatten(new)


def _all_blocks(dit: Params) -> Params:
    """Every main block on one axis of layers."""
    stacks = [dit[name] for name in ("lead_blocks", "blocks") if name in dit]
    if len(stacks) == 1:
        return stacks[0]
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *stacks)


def _placed(params: Params, blocks: Params, cfg: ModelConfig) -> Params:
    """The old leaves under the names of the new model."""
    lead = cfg.lead_layers
    dit = {k: v for k, v in params["dit"].items() if k not in ("lead_blocks", "blocks")}
    if lead:
        dit["lead_blocks"] = jax.tree.map(lambda a: a[:lead], blocks)
    if cfg.num_layers > lead:
        dit["blocks"] = jax.tree.map(lambda a: a[lead:], blocks)
    return {**params, "dit": dit}


def _plain(blocks: Params, length: int) -> Params:
    """First blocks without text and reference: what extractor and pose control hold."""
    kept = {
        "modulation": blocks["modulation"],
        "attention": {name: blocks["attention"][name] for name in _SELF},
        "mlp": blocks["mlp"],
    }
    return jax.tree.map(lambda a: a[:length], kept)


def _extractor(params: Params, blocks: Params, length: int) -> Params:
    dit = params["dit"]
    patch = dit["patch_embedding"]
    # The mask's channels start unseen.
    kernel = jnp.concatenate(
        [patch["kernel"], jnp.zeros_like(patch["kernel"])], axis=-2
    )
    return {
        "patch_embedding": {"kernel": kernel, "bias": patch["bias"]},
        "time_embedding": dit["time_embedding"],
        "time_projection": dit["time_projection"],
        "blocks": _plain(blocks, length),
    }
