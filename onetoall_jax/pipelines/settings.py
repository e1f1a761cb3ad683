"""The settings of a training run as one tree, and the release's way in one table."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from onetoall_jax import config
from onetoall_jax.errors import UserError
from onetoall_jax.lora import LoraConfig
from onetoall_jax.models.attention import AttentionConfig
from onetoall_jax.models.codec import CodecConfig
from onetoall_jax.models.prompts import TextConfig
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.sampling.settings import SamplingConfig
from onetoall_jax.sharding.mesh import MeshConfig
from onetoall_jax.training.settings import TrainingConfig

SCRATCH = "scratch"


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Everything a run is determined by.

    Attributes:
      name: of the run; its folder is runs/<name> unless told otherwise.
      data: settings of the input pipeline, whose room reads them itself.
      sampling: of the sample videos; also what `sample.py` uses with a checkpoint.
      init_from: checkpoint that the run starts from, of this stage or the one before;
        "scratch" draws the base anew. With adapters it is their base, and stays needed.
      init_command: what makes that checkpoint, for the message when it is missing.
      attention: its form; alters no number.
      lora: adapters to train instead of the network; rank 0 is none.
      recipe: "default", or "release" for the released code's way in every option.
    """

    name: str
    model: ModelConfig
    codec: CodecConfig
    text: TextConfig
    data: dict[str, Any]
    training: TrainingConfig
    sampling: SamplingConfig
    mesh: MeshConfig = MeshConfig()
    init_from: str = SCRATCH
    init_command: str = ""
    attention: AttentionConfig = AttentionConfig()
    lora: LoraConfig = LoraConfig()
    recipe: str = "default"


# Where our default leaves the released code, the way back.
RELEASE: Mapping[str, Any] = {
    "training": {
        "shared_draws": True,
        "round_sigma": True,
        "reference_noise": {"double_exponential": True},
        "optimizer": {"clip_norm": 0.0},
    },
    "data": {
        "released_buckets": True,
        "marked_frames": False,
        "augment": {"change_every_frame": True, "released_pictures": True},
    },
}
RECIPES: Mapping[str, Mapping[str, Any]] = {"default": {}, "release": RELEASE}

# A later start of the same run may change these: they alter no number.
FREE = (
    "init_command",
    "mesh",
    "attention",
    "sampling",
    "data.root",
    "data.latents",
    "data.workers",
    "training.steps",
    "training.remat",
    "training.log_every",
    "training.checkpoint_every",
    "training.sample_every",
    "training.keep_checkpoints",
    "training.compilation_cache",
)


def build(values: Mapping[str, Any]) -> RunSettings:
    """Settings from a plain dictionary, the recipe's values put in.

    Raises:
      UserError: an unknown key or recipe, a value of a wrong type.
    """
    recipe = values.get("recipe", "default")
    if recipe not in RECIPES:
        raise UserError(f"recipe is {recipe!r}: choose one of {sorted(RECIPES)}.")
    return config.build(RunSettings, _merged(values, RECIPES[recipe]))


def for_sampling(settings: RunSettings) -> RunSettings:
    """The same with the codec in the type that it samples in.

    Raises:
      UserError: a type that it does not compute in.
    """
    dtype = settings.sampling.codec_dtype or settings.training.dtype
    if dtype not in ("bfloat16", "float32"):
        raise UserError(
            f"sampling.codec_dtype={dtype!r}: choose 'bfloat16' or 'float32'."
        )
    codec = dataclasses.replace(settings.codec, dtype=dtype)
    return dataclasses.replace(settings, codec=codec)


def _merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(values)
    for key, value in over.items():
        inner = isinstance(value, Mapping)
        made[key] = _merged(made.get(key, {}), value) if inner else value
    return made
