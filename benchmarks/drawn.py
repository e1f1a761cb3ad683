"""Runs of a configuration on random parameters and clips: they need no file."""

import ast
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks import report
from onetoall_jax import config
from onetoall_jax.batch import FIELDS, BatchShape
from onetoall_jax.errors import UserError
from onetoall_jax.models import codec as codecs
from onetoall_jax.models import prompts
from onetoall_jax.models.codec import Codec
from onetoall_jax.pipelines import settings as run_settings
from onetoall_jax.pipelines import train
from onetoall_jax.pipelines.settings import SCRATCH, RunSettings
from onetoall_jax.planning import program
from onetoall_jax.planning.work import Size
from onetoall_jax.sharding import mesh as meshes
from onetoall_jax.sharding import rules
from onetoall_jax.training import loop
from onetoall_jax.training.state import TrainState
from onetoall_jax.training.step import Fixed

_ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A run without a past and without data.

    Attributes:
      settings: with the latents of clips given, unless they are to be encoded.
    """

    settings: RunSettings
    mesh: Mesh
    codec: Codec

    @classmethod
    def build(cls, name: str, words: Sequence[str], *, encode: bool = False) -> "Drawn":
        """Run of a configuration such as configs/stage2.py:1_3b.

        Args:
          words: overrides as train.py takes them, --config.training.remat=attention.
          encode: the step encodes the clips, too.
        Raises:
          UserError: no such configuration or setting.
        """
        given = _overridden(name, words)
        data = {**given.data, "latents": None if encode else "given"}
        settings = dataclasses.replace(given, init_from=SCRATCH, data=data)
        codec = codecs.build(settings.codec, settings.model.patch)
        return cls(settings, meshes.build(settings.mesh), codec)

    @property
    def shards(self) -> int:
        """Parts of a batch: its clips are a multiple of them."""
        return rules.batch_shards(self.mesh)

    def program(self, size: Size, clips: int) -> report.Program:
        """The step that train.py would run on so many clips."""
        shape = BatchShape(clips, size.num_frames, size.height, size.width)
        made = program.training(self.settings, self.mesh, shape)
        with meshes.use(self.mesh, rules.table(self.settings.mesh.rules)):
            traced = made.trace(*made.args)
        return report.compiled(traced)

    def state(self) -> TrainState:
        """State before the first step."""
        return train.first_state(self.settings, self.mesh)

    def steps(self, made: report.Program, size: Size, clips: int) -> "Steps":
        """The run's steps on one batch of random clips."""
        batch = train.place(self.batch(size, clips), self.mesh)
        knobs = loop.knobs(self.settings.training, self.settings.training.steps // 2)
        rest = (self._fixed(), batch, knobs)
        return Steps(self.state(), lambda state: made.call(state, *rest))

    def batch(self, size: Size, clips: int) -> dict[str, np.ndarray]:
        """Random clips as the loader gives them."""
        shape = BatchShape(clips, size.num_frames, size.height, size.width)
        latents, rng = bool(self.settings.data["latents"]), np.random.default_rng(0)
        made: dict[str, np.ndarray] = {}
        for name, (sides, dtype) in shape.shapes(
            self.codec.geometry, latents=latents
        ).items():
            if dtype == np.float32:
                made[name] = rng.standard_normal(sides, np.float32)
            else:  # pictures take all values, masks 0 and 1
                top = 256 if FIELDS[name][0].endswith(" 3") else 2
                made[name] = rng.integers(0, top, sides).astype(dtype)
        return made

    def _fixed(self) -> Fixed:
        text, width = self.settings.text, self.settings.model.text_dim
        whole = rules.whole(self.mesh)
        draw = jax.jit(
            lambda key: nn.meta.unbox(self.codec.init(key)), out_shardings=whole
        )
        rows = prompts.constant_prompt(text.length, width)
        return Fixed(draw(jax.random.key(0)), jax.device_put(rows, whole))


class Steps:
    """Steps one after another, each waited for.

    Attributes:
      state: after the last one.
    """

    def __init__(self, state: TrainState, step: Callable[[TrainState], tuple]):
        self.state, self._step = state, step

    def __call__(self) -> None:
        self.state, *_ = jax.block_until_ready(self._step(self.state))


def _overridden(name: str, words: Sequence[str]) -> RunSettings:
    path = _ROOT / name.partition(":")[0]
    values = config.read(f"{path}:{name.partition(':')[2]}")
    for word in words:
        key, found, value = word.removeprefix("--config.").partition("=")
        if not (found and word.startswith("--config.")):
            raise UserError(f"{word!r} is no flag and no --config.name=value.")
        try:
            made: Any = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            made = value
        try:
            with values.unlocked():
                values.update_from_flattened_dict({key: made})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{word}: {error}.") from error
    return run_settings.build(values.to_dict())
