"""How footage becomes rows."""

import dataclasses
from pathlib import Path

from data_pipeline.prepare.poses import AUTO
from data_pipeline.prepare.screening import ScreenConfig
from onetoall_jax.errors import UserError
from onetoall_jax.pose import detect, detect_onnx


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """How footage becomes rows.

    Attributes:
      short_side: of the stored frames; larger ones are reduced to it. 0 keeps all.
      canvas_side: of pose pictures stored with the clips; 0 draws them when read.
      test_every: each such group of clips goes to the test split, where the layout does
        not tell; a group is a file, or a person where the layout knows. 0 makes none.
      lossless: store frames exactly, rather than as JPEG of quality 95.
      detector: of key points: "dwpose", "offline", or "auto" for the first that is
        there; models, environment: its networks, and that of the offline one.
      text_detector: ONNX file; "" looks for no text.
      text_every: frames from one that is searched for text to the next.
      screen: what is good enough.
    """

    short_side: int = 768
    canvas_side: int = 0
    test_every: int = 0
    lossless: bool = False
    detector: str = AUTO
    models: str = str(detect_onnx.DEFAULT_MODELS)
    environment: str = str(detect.DEFAULT_ENVIRONMENT)
    text_detector: str = ""
    text_every: int = 4
    screen: ScreenConfig = ScreenConfig()

    def __post_init__(self) -> None:
        if self.text_every < 1 or min(self.short_side, self.canvas_side) < 0:
            raise UserError(
                f"--text_every={self.text_every} must be 1 or more, "
                f"--short_side={self.short_side} and "
                f"--canvas_side={self.canvas_side} 0 or more."
            )
        if self.text_detector and not Path(self.text_detector).expanduser().is_file():
            raise UserError(f"There is no text detector {self.text_detector}.")
