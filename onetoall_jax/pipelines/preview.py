"""Sample videos while a run trains, to see what the losses do not say."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from onetoall_jax import media, trees
from onetoall_jax.models import onetoall
from onetoall_jax.models.codec import Codec
from onetoall_jax.pipelines import animator as animators
from onetoall_jax.pipelines.settings import RunSettings
from onetoall_jax.sampling.sampler import Sampler
from onetoall_jax.training.state import TrainState

CLIPS, SCALE, FPS = 4, 4, 8.0


def previewer(
    settings: RunSettings, codec: Codec, codec_params: Any, workdir: Path
) -> Callable[[int, TrainState, Mapping[str, np.ndarray]], None]:
    """Function of (step, state, host batch) that writes samples/step_<step>.mp4.

    The first clips of the batch, one below the other: reference, poses, the clip itself
    and what the network draws, enlarged where pictures are small.
    """
    denoiser = onetoall.functions(
        settings.model, dtype=jnp.dtype(settings.training.dtype)
    )
    sampler = Sampler(denoiser, codec, settings.sampling)
    side = settings.data["canvas_side"]

    def preview(step: int, state: TrainState, batch: Mapping[str, np.ndarray]) -> None:
        params = state.params
        if state.ema is not None:
            params = trees.join(state.ema, state.frozen)
        animator = animators.Animator(
            settings, codec, sampler, params, codec_params, side
        )
        few = {name: value[:CLIPS] for name, value in batch.items()}
        frames = animators.sample_batch(animator, few)
        folder = workdir / "samples"
        folder.mkdir(exist_ok=True)
        media.write_video(folder / f"step_{step:06d}.mp4", _sheet(few, frames), FPS)

    return preview


def _sheet(batch: Mapping[str, np.ndarray], drawn: np.ndarray) -> np.ndarray:
    names = ("reference_u8", "pose_u8", "frames_u8")
    # Where latents are stored, the clip itself is not there to be shown.
    given = zip(*(batch[n] for n in names if n in batch), drawn, strict=True)
    rows = [media.side_by_side(*clips) for clips in given]
    sheet = np.concatenate(rows, axis=1)
    return media.enlarged(sheet, SCALE) if drawn.shape[2] < 128 else sheet
