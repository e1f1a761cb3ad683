"""From pixels to latents to tokens: strides, legal sizes and frame counts."""

import dataclasses

from onetoall_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Strides between pixels, latents and tokens.

    Attributes:
      temporal: frames in a latent frame after the first (4 for Wan 2.1).
      spatial: pixels to a latent pixel, each way (8 for Wan 2.1).
      channels: latent channels (16 for Wan 2.1).
      patch: latent frames, rows and columns in a token; (1, 2, 2) for Wan 2.1.
    """

    temporal: int = 4
    spatial: int = 8
    channels: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)

    @property
    def pixel_multiple(self) -> int:
        """Heights and widths are multiples of this many pixels."""
        return self.spatial * self.patch[1]

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip of 1 + temporal * n frames.

        Raises:
          UserError: the count is not of that form; the nearest that are, are named.
        """
        if num_frames < 1 or (num_frames - 1) % self.temporal:
            below = max(1, self.whole_frames(num_frames))
            raise UserError(
                f"A clip of {num_frames} frames does not fit the codec, which takes "
                f"1 + {self.temporal}n: give {below} or {below + self.temporal}."
            )
        return 1 + (num_frames - 1) // self.temporal

    def pixel_frames(self, latent_frames: int) -> int:
        """Frames that `latent_frames` latent frames decode to."""
        return 1 + self.temporal * (latent_frames - 1)

    def whole_frames(self, num_frames: int) -> int:
        """Largest legal frame count that is not above `num_frames`."""
        return 1 + (num_frames - 1) // self.temporal * self.temporal

    def padded_frames(self, num_frames: int) -> int:
        """Smallest legal frame count that is not below `num_frames`."""
        return 1 + -(-(num_frames - 1) // self.temporal) * self.temporal

    def check_size(self, height: int, width: int) -> None:
        """Raises UserError unless both sides are multiples of `pixel_multiple`."""
        m = self.pixel_multiple
        if height < m or width < m or height % m or width % m:
            raise UserError(
                f"A picture of {height}x{width} pixels does not fit: height and width "
                f"must be multiples of {m}, for example "
                f"{max(m, height // m * m)}x{max(m, width // m * m)}."
            )

    def token_grid(
        self, num_frames: int, height: int, width: int
    ) -> tuple[int, int, int]:
        """Tokens along time, rows and columns of a clip in pixels (no prefix frame)."""
        self.check_size(height, width)
        u, p, q = self.patch
        return (
            self.latent_frames(num_frames) // u,
            height // self.spatial // p,
            width // self.spatial // q,
        )
