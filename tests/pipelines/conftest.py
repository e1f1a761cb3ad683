"""A pair of a picture and a moving person, and a model that is a formula."""

import pytest

from configs import stage3
from data_pipeline import synthetic
from data_pipeline.synthetic import SyntheticConfig
from onetoall_jax import media
from onetoall_jax.pipelines import settings as run_settings
from onetoall_jax.pipelines.animator import Animator
from onetoall_jax.pose import files
from onetoall_jax.sampling.sampler import Sampler
from onetoall_jax.sampling.settings import SamplingConfig
from tests.sampling.formula_model import CODEC_PARAMS, PARAMS, FormulaCodec, Model

SAMPLING = SamplingConfig(
    steps=1,
    image_guidance=1.0,
    segment_frames=9,
    final_lengths=(9,),
    short_side=32,
)


class Formula(Model):
    """The same of prompts whose equal rows were merged."""

    def conditions(self, params, text, *more):
        return super().conditions(params, text.rows, *more)


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Folder with me.png, me.npz and dance.npz of 30 frames."""
    folder = tmp_path_factory.mktemp("pair")
    clip = synthetic.make_clip(SyntheticConfig(num_frames=30, canvas_side=0), "test", 3)
    media.write_image(folder / "me.png", clip.frames[0])
    track = files.Track(clip.keypoints, 48, 32, 8.0)
    files.write(folder / "dance.npz", track)
    files.write(folder / "me.npz", track._replace(keypoints=clip.keypoints[:1]))
    return folder


@pytest.fixture(scope="session")
def model():
    """An Animator whose frames are a formula of everything it is given."""
    settings = run_settings.build(stage3.get_config("tiny").to_dict())
    sampler = Sampler(Formula({}), FormulaCodec(), SAMPLING)
    return Animator(settings, sampler.codec, sampler, PARAMS, CODEC_PARAMS, 256)
