"""The parameters that a run starts from."""

import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from onetoall_jax import config, lora, trees
from onetoall_jax.checkpoints import parameters
from onetoall_jax.errors import UserError
from onetoall_jax.lora import LoraConfig
from onetoall_jax.models import grow, onetoall
from onetoall_jax.models.codec import Codec, CodecConfig
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.pipelines.settings import SCRATCH, RunSettings
from onetoall_jax.sharding import rules
from onetoall_jax.training import stages, state

Params = Any


@functools.cache
def boxed(cfg: ModelConfig, adapters: LoraConfig | None = None) -> Params:
    """Abstract parameters of a network, with logical names; adapters of rank > 0."""

    def init(key: jax.Array) -> Params:
        made = onetoall.init(cfg, key)
        if adapters is not None and adapters.rank:
            made = lora.extend(made, adapters, key)
        return made

    return jax.eval_shape(init, jax.random.key(0))


def abstract(boxed: Params, mesh: Mesh, table: rules.Rules = rules.RULES) -> Params:
    """Shapes, types and shardings of plain parameters."""
    places = rules.shardings(boxed, mesh, table)
    return jax.tree.map(_placed, nn.meta.unbox(boxed), places)


def _placed(leaf: Any, place: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def check(settings: RunSettings) -> None:
    """Raises UserError if the checkpoint that the run starts from is missing."""
    path = Path(settings.init_from)
    if settings.init_from != SCRATCH and not path.exists():
        command = settings.init_command
        hint = f"make it with `{command}`" if command else "set init_from"
        raise UserError(f"The start of this run, {path}, does not exist: {hint}.")


def params(settings: RunSettings, mesh: Mesh) -> Params:
    """Parameters before the first step, straight in their shards.

    Drawn anew for "scratch", else read; those of the stage before are grown, and
    adapters are added.

    Raises:
      UserError: the start cannot be read or is of another size.
    """
    key = jax.random.key(settings.training.seed)
    base = _base(settings, mesh, key)
    if not settings.lora.rank:
        return base
    whole = boxed(settings.model, settings.lora)
    table = rules.table(settings.mesh.rules)
    where = rules.shardings(trees.split(whole, lora.ALL)[0], mesh, table)

    def adapters(key: jax.Array) -> Params:
        made = lora.extend(onetoall.init(settings.model, key), settings.lora, key)
        return trees.split(nn.meta.unbox(made), lora.ALL)[0]

    return trees.join(base, jax.jit(adapters, out_shardings=where)(key))


def _base(settings: RunSettings, mesh: Mesh, key: jax.Array) -> Params:
    cfg, table = settings.model, rules.table(settings.mesh.rules)
    where = rules.shardings(boxed(cfg), mesh, table)

    if settings.init_from == SCRATCH:
        return fresh(settings, mesh)(key)
    typed = functools.partial(_typed, settings)
    path = Path(settings.init_from)
    before = config.build(ModelConfig, parameters.settings(path)["model"], "model")
    if settings.lora.rank and before != cfg:
        raise UserError(
            f"Adapters need a base of their own size: {path} is {before}, not {cfg}."
        )
    target = abstract(boxed(before), mesh, table)
    if before == cfg:
        return parameters.load(path, typed(target))
    old = parameters.load(path, target)
    try:
        grown = functools.partial(grow.grow, cfg_from=before, cfg_to=cfg)
        return jax.jit(lambda p, k: typed(grown(p, key=k)), out_shardings=where)(
            old, key
        )
    except ValueError as error:
        raise UserError(
            f"The checkpoint {path} is of another size ({before}) than this run "
            f"({cfg}): set init_from to one that fits."
        ) from error


def fresh(settings: RunSettings, mesh: Mesh) -> Any:
    """Compiled function of a key: parameters drawn anew, each device its own part."""
    cfg, table = settings.model, rules.table(settings.mesh.rules)

    def draw(key: jax.Array) -> Params:
        params = nn.meta.unbox(onetoall.init(cfg, key))
        return _typed(settings, stages.from_scratch(params))

    return jax.jit(draw, out_shardings=rules.shardings(boxed(cfg), mesh, table))


def _typed(settings: RunSettings, params: Params) -> Params:
    """Frozen kernels in their own type: never a second, wider copy of them."""
    patterns = stages.patterns(settings.training.trainable)
    trained, frozen = trees.split(params, patterns)
    dtype = jnp.dtype(settings.training.frozen_dtype)
    return trees.join(trained, state.stored(frozen, dtype))


def codec_params(codec: Codec, settings: CodecConfig, mesh: Mesh) -> Params:
    """Parameters of the codec, on every device; {} where nothing is learned.

    Raises:
      UserError: the VAE's parameters are missing.
    """
    boxed = jax.eval_shape(codec.init, jax.random.key(0))
    plain = nn.meta.unbox(boxed)
    if not jax.tree.leaves(plain):
        return plain
    if settings.params is None or not Path(settings.params).exists():
        raise UserError(
            f"codec.params is {settings.params!r}, but the VAE needs its parameters: "
            "convert them with tools/convert_torch_weights.py --kind=vae."
        )
    whole = rules.whole(mesh)
    target = jax.tree.map(lambda leaf: _placed(leaf, whole), plain)
    return parameters.load(Path(settings.params), target)
