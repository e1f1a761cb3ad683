"""A training run, assembled from its settings."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from onetoall_jax import config, lora, trees
from onetoall_jax.batch import sizes
from onetoall_jax.checkpoints.state import Store, check_owner, claim
from onetoall_jax.errors import UserError
from onetoall_jax.geometry import Geometry
from onetoall_jax.lora import LoraConfig
from onetoall_jax.models import codec as codecs
from onetoall_jax.models import onetoall, prompts
from onetoall_jax.models.codec import Codec
from onetoall_jax.models.denoiser import CONTEXT_FRAMES
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.pipelines import encode, preview, start, tune
from onetoall_jax.pipelines.compiled import use_cache
from onetoall_jax.pipelines.settings import FREE, RunSettings
from onetoall_jax.sharding import hosts, rules
from onetoall_jax.sharding import mesh as meshes
from onetoall_jax.training import flops, loop, optimizer, stages, state
from onetoall_jax.training.example import Encoders
from onetoall_jax.training.settings import TrainingConfig
from onetoall_jax.training.state import TrainState
from onetoall_jax.training.step import Fixed, make_train_step


@dataclasses.dataclass(frozen=True)
class Run:
    """A run ready to go.

    Attributes:
      geometry: of the codec, which the loader must know.
      state: at the step to go on from.
    """

    settings: RunSettings
    workdir: Path
    mesh: Mesh
    geometry: Geometry
    state: TrainState
    job: loop.Job
    store: Store

    @property
    def first_step(self) -> int:
        """Step to go on from: also the place in the data."""
        return int(self.state.step)

    def places(self, batch: int) -> tuple[int, ...]:
        """Places in a batch of so many clips of those that this process must read."""
        return hosts.rows(self.mesh, batch)

    def __call__(self, batches: Iterator[Mapping[str, np.ndarray]]) -> TrainState:
        """Trains to the last step; see `loop.run`."""
        table = rules.table(self.settings.mesh.rules)
        with meshes.use(self.mesh, table), hosts.Stop() as stop:
            job = dataclasses.replace(self.job, stop=stop.after)
            try:
                return loop.run(self.state, batches, job, self.workdir)
            finally:
                self.store.close()


def assemble(settings: RunSettings, workdir: Path) -> Run:
    """Mesh, functions, state and step of a run; resumes what `workdir` holds.

    Raises:
      UserError: a workdir of other settings, a missing start, a mesh that does not fit.
    """
    stored = config.to_dict(settings)
    check_owner(workdir, stored, FREE)
    training = settings.training
    use_cache(training.compilation_cache)
    mesh = meshes.build(settings.mesh)
    codec = codecs.build(settings.codec, settings.model.patch)
    store = Store(workdir, training.keep_checkpoints)
    if store.latest() is None:
        start.check(settings)
    made = _state(settings, mesh, store)
    fixed = _fixed(settings, codec, mesh)
    if settings.data.get("latents"):
        encode.check_stored(settings.data["latents"], fixed.codec)
    step = train_step(settings, codec, abstract_state(settings, mesh))
    if hosts.index() == 0:
        claim(workdir, stored)
    sample = None
    shows = settings.model.reference_layers > 0  # a base has nothing to look at
    if training.sample_every and shows and hosts.count() == 1:
        sample = preview.previewer(settings, codec, fixed.codec, workdir)
    job = loop.Job(
        config=training,
        step=lambda state, batch, knobs: step(state, fixed, batch, knobs),
        place=functools.partial(place, mesh=mesh),
        save=lambda step, state: store.save(step, *kept(settings, state), stored),
        work=functools.partial(work, settings, codec.geometry, mesh),
        clips=lambda batch: _clips(batch, mesh),
        peak=_peak(mesh),
        sample=sample,
        writes=hosts.index() == 0,
    )
    return Run(settings, workdir, mesh, codec.geometry, made, job, store)


def split(made: TrainState) -> tuple[Any, dict[str, Any]]:
    """A state as the two parts of a checkpoint: (parameters to use, the rest).

    The parameters to use are the running means where the run keeps them; those that
    training goes on with then belong to the rest.
    """
    rest = {"step": made.step, "optimizer": made.optimizer, "key": made.key}
    if made.ema is None:
        return made.params, rest
    rest["trainable"] = made.trainable
    return trees.join(made.ema, made.frozen), rest


def join(params: Any, rest: Mapping[str, Any], patterns: tuple[str, ...]) -> TrainState:
    """Inverse of `split`."""
    trained, frozen = trees.split(params, patterns)
    return TrainState(
        step=rest["step"],
        trainable=rest.get("trainable", trained),
        frozen=frozen,
        optimizer=rest["optimizer"],
        ema=trained if "trainable" in rest else None,
        key=rest["key"],
    )


def kept(settings: RunSettings, made: TrainState) -> tuple[Any, dict[str, Any]]:
    """What a checkpoint holds of a state: with adapters, nothing of their base."""
    params, rest = split(made)
    return (trees.split(params, lora.ALL)[0] if settings.lora.rank else params), rest


def abstract_state(settings: RunSettings, mesh: Mesh) -> TrainState:
    """State of a run as shapes, types and shardings; makes no array."""
    tx = optimizer.transform(settings.training.optimizer)
    boxed = start.boxed(settings.model, settings.lora)
    shapes = _shapes(settings.model, settings.lora, settings.training)
    places = rules.shardings(boxed, mesh, rules.table(settings.mesh.rules))
    patterns = stages.patterns(settings.training.trainable)
    where = state.shardings(shapes, places, patterns, tx, rules.whole(mesh))
    return jax.tree.map(
        lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w), shapes, where
    )


@functools.cache
def _shapes(
    model: ModelConfig, adapters: LoraConfig, training: TrainingConfig
) -> TrainState:
    plain = nn.meta.unbox(start.boxed(model, adapters))
    return jax.eval_shape(_create(training), plain)


def _create(training: TrainingConfig) -> Callable[[Any], TrainState]:
    """Function of the parameters that makes the state before the first step."""
    return functools.partial(
        state.create,
        patterns=stages.patterns(training.trainable),
        tx=optimizer.transform(training.optimizer),
        seed=training.seed,
        ema=training.optimizer.ema_decay > 0,
        frozen_dtype=jnp.dtype(training.frozen_dtype),
    )


def _state(settings: RunSettings, mesh: Mesh, store: Store) -> TrainState:
    """State to go on from."""
    if store.latest() is None:
        return first_state(settings, mesh)
    target = abstract_state(settings, mesh)
    params, rest = store.restore(*kept(settings, target))
    if settings.lora.rank:
        base = trees.split(start.params(settings, mesh), lora.ALL)[1]
        params = trees.join(params, base)
    return join(params, rest, stages.patterns(settings.training.trainable))


def first_state(settings: RunSettings, mesh: Mesh) -> TrainState:
    """State before the first step, in its shards; raises as `start.params`."""
    places = _places(abstract_state(settings, mesh))
    create = jax.jit(_create(settings.training), out_shardings=places, donate_argnums=0)
    return create(start.params(settings, mesh))


def _places(target: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: leaf.sharding, target)


def _fixed(settings: RunSettings, codec: Codec, mesh: Mesh) -> Fixed:
    text = prompts.for_training(settings.text, settings.model.text_dim)
    return Fixed(
        codec=start.codec_params(codec, settings.codec, mesh),
        text=jax.device_put(text, rules.whole(mesh)),
    )


def train_step(settings: RunSettings, codec: Codec, target: TrainState) -> Any:
    """The step as training compiles it: (state, fixed, batch, knobs) -> (state, ...).

    Args:
      target: abstract state; the next one keeps its shardings.
    """
    training = settings.training
    denoiser = onetoall.functions(
        settings.model,
        dtype=jnp.dtype(training.dtype),
        remat=training.remat,
        attention=tune.taken_in(settings.attention, _device_kind(target)),
    )
    encoders = Encoders(
        clip=codec.encode,
        reference=functools.partial(codecs.reference_latents, codec),
        context_frames=CONTEXT_FRAMES,
    )
    tx: optax.GradientTransformation = optimizer.transform(training.optimizer)
    step = make_train_step(denoiser, encoders, tx, training)
    return jax.jit(step, donate_argnums=0, out_shardings=(_places(target), None, None))


def place(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This host's share of a batch -> the global batch on the devices.

    Raises:
      UserError: the clips cannot be shared evenly.
    """
    split_over = rules.batch_shards(mesh)
    clips = _clips(batch, mesh)
    if clips % split_over:
        raise UserError(
            f"A batch of {clips} clips cannot be split over {split_over} devices: make "
            "data.batch a multiple, or set mesh.context to use several for one clip."
        )
    where = rules.batch(mesh)
    return {
        name: jax.make_array_from_process_local_data(
            where, value, (clips, *value.shape[1:])
        )
        for name, value in batch.items()
        if name != "row"
    }


def _clips(batch: Mapping[str, np.ndarray], mesh: Mesh) -> int:
    """Clips of the global batch, of which this process has read its places."""
    parts = rules.batch_shards(mesh)
    return sizes(batch)[0] * parts // len(hosts.rows(mesh, parts))


def work(
    settings: RunSettings,
    geometry: Geometry,
    mesh: Mesh,
    batch: Mapping[str, np.ndarray],
) -> float:
    """Model operations of a step on `batch`, over all hosts."""
    return _clips(batch, mesh) * _work(settings, geometry, sizes(batch)[1:])


@functools.lru_cache
def _table(model: Any, clip: flops.Clip, trainable: str, adapters: LoraConfig) -> float:
    patterns = stages.patterns(trainable)
    return flops.total(flops.operations(model, clip, patterns, adapters))


def _work(settings: RunSettings, geometry: Geometry, size: tuple[int, ...]) -> float:
    frames, height, width = size
    grid = geometry.token_grid(frames, height, width)
    clip = flops.Clip(frames, height, width, grid, settings.text.length)
    return _table(settings.model, clip, settings.training.trainable, settings.lora)


def _device_kind(target: TrainState) -> str:
    return jax.tree.leaves(target)[0].sharding.mesh.devices.flat[0].device_kind


def _peak(mesh: Mesh) -> float | None:
    one = flops.peak(mesh.devices.flat[0].device_kind)
    return None if one is None else one * 1e12 * mesh.devices.size
