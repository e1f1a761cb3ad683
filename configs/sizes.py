"""Sizes of the networks, by name."""

from ml_collections import ConfigDict

NAMES = ("tiny", "1_3b", "14b")


def model(size: str, *, reference: bool = True, pose: bool = True) -> ConfigDict:
    """Denoiser of a size; without pose it is stage 1's, without reference plain Wan."""
    sizes = {
        "tiny": ConfigDict(
            dict(
                num_layers=6,
                num_heads=4,
                head_dim=32,
                mlp_dim=512,
                in_channels=48,
                out_channels=48,
                text_dim=128,
                patch=(1, 1, 1),
                rope_theta=100.0,
                reference_layers=2,
                pose_layers=1,
                pose_channels=4,
                pose_strides=((1, 2, 2), (2, 2, 2), (2, 2, 2)),
            )
        ),
        "1_3b": ConfigDict(
            dict(
                num_layers=30,
                num_heads=12,
                mlp_dim=8960,
                reference_layers=14,
                pose_layers=2,
            )
        ),
        "14b": ConfigDict(
            dict(
                num_layers=40,
                num_heads=40,
                mlp_dim=13824,
                reference_layers=7,
                pose_layers=1,
            )
        ),
    }
    c = sizes[size]
    if not pose:
        c.pose_layers = 0
    if not reference:
        c.reference_layers = 0
    return c
