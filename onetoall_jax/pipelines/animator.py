"""A checkpoint made ready to draw clips."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from onetoall_jax import config, lora, pixels, trees
from onetoall_jax.checkpoints import parameters
from onetoall_jax.errors import UserError
from onetoall_jax.models import codec as codecs
from onetoall_jax.models import onetoall, prompts
from onetoall_jax.models.codec import Codec
from onetoall_jax.models.text_attention import merged
from onetoall_jax.pipelines import devices, start
from onetoall_jax.pipelines import settings as run_settings
from onetoall_jax.pipelines.compiled import use_cache
from onetoall_jax.pipelines.settings import RunSettings
from onetoall_jax.sampling import clip, guidance
from onetoall_jax.sampling.euler import Inputs
from onetoall_jax.sampling.sampler import Sampler
from onetoall_jax.sampling.settings import SamplingConfig

# A tiny model, trained as the report beside it says; what to try first.
SHIPPED = Path(__file__).resolve().parent.parent / "assets" / "tiny"


class Animator(NamedTuple):
    """A loaded checkpoint, ready to draw clips.

    Attributes:
      canvas_side: of drawn poses, as in training.
      source: where it was loaded from; None for one made in memory.
    """

    settings: RunSettings
    codec: Codec
    sampler: Sampler
    params: Any
    codec_params: Any
    canvas_side: int
    source: Path | None = None

    @property
    def sampling(self) -> SamplingConfig:
        """Settings of sampling."""
        return self.sampler.config

    def changed(self, overrides: Mapping[str, Any]) -> "Animator":
        """The same with other sampling settings.

        Raises:
          UserError: an unknown setting, or a value of another type.
        """
        sampling = _sampling(self.sampler.config, overrides)
        before = self.sampler.config
        if (sampling.devices, sampling.codec_dtype) != (
            before.devices,
            before.codec_dtype,
        ):
            raise UserError(
                "sampling.devices and sampling.codec_dtype say how parameters lie in "
                "memory: give them to `load`."
            )
        if dataclasses.replace(sampling, seed=before.seed) == before:
            return self  # its programs serve every seed
        sampler = dataclasses.replace(self.sampler, config=sampling)
        return self._replace(sampler=sampler)

    def with_prompts(self, prompt: str | None, negative: str | None) -> "Animator":
        """The same with the files of other embedded prompts; None keeps the old."""
        text = self.settings.text
        text = dataclasses.replace(
            text, prompt=prompt or text.prompt, negative=negative or text.negative
        )
        return self._replace(settings=dataclasses.replace(self.settings, text=text))


class Setup(NamedTuple):
    """What a checkpoint says of itself, before anything large is read."""

    folder: Path
    settings: RunSettings
    codec: Codec

    @property
    def sampling(self) -> SamplingConfig:
        """Settings of sampling."""
        return self.settings.sampling

    @property
    def canvas_side(self) -> int:
        """Of drawn poses, as in training."""
        return self.settings.data["canvas_side"]

    def changed(self, overrides: Mapping[str, Any]) -> "Setup":
        """The same with other sampling settings; raises as `Animator.changed`."""
        return _setup(self.folder, self.settings, overrides)


def setup(
    checkpoint: Path,
    overrides: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
) -> Setup:
    """Reads the settings of a checkpoint; arguments as for `load`.

    Raises:
      UserError: no checkpoint, or one that cannot animate.
    """
    folder = Path(checkpoint)
    settings = _settings(folder, run)
    if not settings.model.reference_layers:
        raise UserError(
            f"{folder} is a base that takes no reference: give a checkpoint of stage 1 "
            "or later."
        )
    return _setup(folder, settings, overrides or {})


def _setup(folder: Path, given: RunSettings, overrides: Mapping[str, Any]) -> Setup:
    sampling = _sampling(given.sampling, overrides)
    settings = run_settings.for_sampling(dataclasses.replace(given, sampling=sampling))
    codec = codecs.build(settings.codec, settings.model.patch)
    return Setup(folder, settings, codec)


def load(
    checkpoint: Path = SHIPPED,
    overrides: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
) -> Animator:
    """Reads a run, one of its steps, or converted parameters.

    Args:
      checkpoint: the tiny model that ships with the package, where none is named.
      overrides: values of SamplingConfig that replace the others.
      run: settings of a run (a config file's dictionary) to use instead of those stored
        with the checkpoint; the network's sizes stay the checkpoint's. Converted
        parameters have none of their own.
    Raises:
      UserError: no checkpoint, or one of another kind or size.
    """
    return loaded(setup(checkpoint, overrides, run))


def loaded(given: Setup) -> Animator:
    """Reads the parameters; see `load`."""
    folder, settings, codec = given
    sampling = settings.sampling
    use_cache(settings.training.compilation_cache)
    mesh = devices.mesh_of(sampling)
    params = _params(folder, settings, mesh)
    codec_params = nn.meta.unbox(jax.eval_shape(codec.init, jax.random.key(0)))
    if jax.tree.leaves(codec_params):
        if settings.codec.params is None:
            raise UserError("codec.params is not set: name the converted VAE.")
        codec_params = trees.retyped(codec_params, settings.codec.dtype)
        codec_params = parameters.load(Path(settings.codec.params), codec_params)
    dtype = jnp.dtype(settings.training.dtype)
    functions = onetoall.functions(
        settings.model, dtype=dtype, attention=settings.attention
    )
    scope = None if mesh is None else devices.scope(mesh)
    sampler = Sampler(functions, codec, sampling, scope)
    return Animator(
        settings, codec, sampler, params, codec_params, given.canvas_side, folder
    )


def _sampling(before: SamplingConfig, overrides: Mapping[str, Any]) -> SamplingConfig:
    changed = {**config.to_dict(before), **overrides}
    return config.build(SamplingConfig, changed, "sampling")


def _params(folder: Path, settings: RunSettings, mesh: Mesh | None) -> Any:
    """Parameters to draw with, in the type that is computed with, as released.

    Adapters are merged into the base they were made for.
    """

    def expected(boxed: Any) -> Any:
        return nn.meta.unbox(boxed) if mesh is None else start.abstract(boxed, mesh)

    dtype = settings.training.dtype
    if not settings.lora.rank:
        whole = trees.retyped(expected(start.boxed(settings.model)), dtype)
        return parameters.load(folder, whole)
    whole = expected(start.boxed(settings.model, settings.lora))
    mine, base = trees.split(whole, lora.ALL)
    adapters = parameters.load(folder, mine)
    params = parameters.load(Path(settings.init_from), trees.retyped(base, dtype))
    return jax.jit(lambda a, b: lora.merge(trees.join(a, b)))(adapters, params)


def _settings(folder: Path, run: Mapping[str, Any] | None) -> RunSettings:
    stored = parameters.settings(folder)
    if run is not None:
        own = ("model", "lora", "init_from")
        return run_settings.build(
            {**run, **{name: stored[name] for name in own if name in stored}}
        )
    if "codec" not in stored:
        raise UserError(
            f"{folder} holds parameters without the settings of a run: name them, for "
            "example --config=configs/stage3.py:1_3b."
        )
    return run_settings.build(stored)


def identity(animator: Animator) -> dict[str, Any]:
    """What tells two checkpoints apart without reading them: names, sizes, dates."""
    source = animator.source
    if source is None:
        return {"made": "in memory"}
    stats = [(p, p.stat()) for p in sorted(source.rglob("*")) if p.is_file()]
    files = [[str(p.relative_to(source)), s.st_size, s.st_mtime_ns] for p, s in stats]
    listed = json.dumps(files).encode()
    return {"folder": str(source), "files": hashlib.sha256(listed).hexdigest()}


def inputs(
    animator: Animator,
    reference_u8: np.ndarray,
    mask: np.ndarray,
    reference_pose_u8: np.ndarray,
) -> Inputs:
    """What the sampler takes, from pictures of one size.

    Args:
      reference_u8, reference_pose_u8: [B,H,W,3].
      mask: [B,H,W] in 0..1, 1 = to be invented.
    """
    settings = animator.settings
    clips = len(reference_u8)
    table = guidance.table(animator.sampler.config)
    # Host arrays, placed by the programs that take them.
    prompt, negative = (
        merged(np.broadcast_to(rows, (clips, *rows.shape)))
        for rows in prompts.for_sampling(settings.text, settings.model.text_dim)
    )
    reference = black = None
    if settings.model.reference_layers:
        encode = _encoder(
            animator.codec, any(row.reference == guidance.BLACK for row in table)
        )
        reference, black = encode(
            animator.codec_params,
            np.asarray(reference_u8),
            np.asarray(mask, np.float32),
        )
    shown: Any = None
    if settings.model.pose_layers:
        shown = np.asarray(reference_pose_u8)[:, None]
    return Inputs(prompt, negative, reference, black, shown)  # type: ignore[arg-type]


@functools.lru_cache
def _encoder(codec: Codec, with_black: bool) -> Callable[..., tuple]:
    """One program for all that is encoded before the first segment."""

    @jax.jit
    def encode(
        params: Any, reference_u8: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array | None]:
        _, height, width, _ = reference_u8.shape
        picture = pixels.scaled(reference_u8)
        reference = codecs.reference_latents(codec, params, picture, mask)
        if not with_black:
            return reference, None
        return reference, codecs.black_latents(codec, params, height, width)

    return encode


def sample_batch(animator: Animator, batch: Mapping[str, Any]) -> np.ndarray:
    """Frames u8 [B,F,H,W,3] for a batch of the loader (see `onetoall_jax.batch`)."""
    given = inputs(
        animator,
        batch["reference_u8"],
        batch["reference_mask_u8"],
        batch["reference_pose_u8"],
    )
    pose = batch["pose_u8"] if animator.settings.model.pose_layers else None
    return clip.sample_clip(
        animator.sampler,
        animator.params,
        animator.codec_params,
        given,
        pose,
        num_frames=batch["pose_u8"].shape[1],
    )
