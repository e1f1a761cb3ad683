"""Sizes of the networks as frozen dataclasses; numbers only, no arrays."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of the denoiser; the same code serves every size and stage.

    Attributes:
      num_layers: blocks of the main stack (N).
      num_heads, head_dim: attention heads; the model width D is their product.
      mlp_dim: width of the feed-forward layers (M in shapes).
      in_channels, out_channels: latent channels.
      text_dim: width of the text encoder's rows.
      time_dim: length of the sinusoidal time embedding.
      patch: latent frames, rows, columns in a token.
      rope_theta: base of the rotary angles.
      eps: of every norm.
      reference_layers: blocks of the reference extractor; 0 is the plain Wan model.
      pose_layers: pose-control blocks; 0 is the stage-1 model without pose and prefix.
      pose_channels: width of PoseResNet.
      pose_strides: strides (frames, rows, columns) of PoseResNet's levels; their
        product is the codec's stride times the patch.
      pose_norm_groups: groups of the norms of PoseResNet and the prefix encoder.
      prefix_channels: width of the prefix encoder.
    """

    num_layers: int
    num_heads: int
    mlp_dim: int
    head_dim: int = 128
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    time_dim: int = 256
    patch: tuple[int, int, int] = (1, 2, 2)
    rope_theta: float = 10000.0
    eps: float = 1e-6
    reference_layers: int = 0
    pose_layers: int = 0
    pose_channels: int = 16
    pose_strides: tuple[tuple[int, int, int], ...] = (
        (1, 2, 2),
        (2, 2, 2),
        (2, 2, 2),
        (1, 2, 2),
    )
    pose_norm_groups: int = 4
    prefix_channels: int = 16

    def __post_init__(self) -> None:
        if self.pose_layers and not self.reference_layers:
            raise ValueError("pose control needs a reference extractor")
        if self.pose_layers and self.num_layers < self.pose_layers + 1:
            raise ValueError("pose control needs num_layers >= pose_layers + 1")

    @property
    def dim(self) -> int:
        """Model width D."""
        return self.num_heads * self.head_dim

    @property
    def reference_channels(self) -> int:
        """Channels of the reference latents: picture and mask side by side."""
        return 2 * self.in_channels

    @property
    def lead_layers(self) -> int:
        """Blocks that stand alone: the first, and those that get a pose residual.

        The first one of stage 1 starts from frozen tokens, so its attention needs no
        backward pass; among scanned blocks it would get one.
        """
        return self.pose_layers + 1 if self.reference_layers else 0

    @property
    def feature_of_block(self) -> tuple[int, ...]:
        """Reference feature that each block reads: i // ceil(N / (M+1))."""
        per_feature = -(-self.num_layers // (self.reference_layers + 1))
        return tuple(i // per_feature for i in range(self.num_layers))
