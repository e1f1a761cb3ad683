from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from onetoall_jax.models.codec import Codec
from onetoall_jax.pipelines import evaluate


def test_the_round_trip_rounds_to_bytes_in_float32_whatever_the_codec_computes_in():
    frames_u8 = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 1, 16, 16, 3)

    def rounded(params, x):
        return x.astype(jnp.bfloat16)

    codec = Codec(None, rounded, rounded, None)
    drawing = SimpleNamespace(codec=codec, codec_params={})
    kept = (frames_u8.astype(np.float32) / 255 * 2 - 1).astype(jnp.bfloat16)
    expected = np.round((kept.astype(np.float32) / 2 + 0.5) * 255)
    np.testing.assert_array_equal(evaluate.round_trip(drawing, frames_u8), expected)
    assert np.abs(expected - frames_u8).max() <= 1
