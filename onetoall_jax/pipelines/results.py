"""The files of a finished video that people look at."""

from pathlib import Path

import numpy as np

from onetoall_jax import media
from onetoall_jax.evaluation import drift, plot
from onetoall_jax.pipelines.prepare_pair import Prepared
from onetoall_jax.pipelines.unfinished import Unfinished

_SHOWN = 8  # frames of each row in the contact sheet


class Results:
    """The files that people look at; the videos grow as frames come."""

    def __init__(self, folder: Path, prepared: Prepared, sound: Path | None):
        self._folder, self._prepared = folder, prepared
        self._total = len(prepared.poses)
        # Small clips are enlarged, or a player would blur them.
        self._factor = max(1, 256 // min(prepared.size))
        self._count = 0
        wanted = np.linspace(0, self._total - 1, min(_SHOWN, self._total))
        self._wanted = set(wanted.round().astype(int).tolist())
        self._kept: list[np.ndarray] = []
        self._videos: list[media.VideoWriter] = []
        if self._total > 1:
            height, width = (n * self._factor for n in prepared.size)
            fps = prepared.fps
            self._videos = [
                media.VideoWriter(folder / "result.mp4", fps, height, width, sound),
                media.VideoWriter(folder / "side_by_side.mp4", fps, height, 3 * width),
            ]

    def add(self, frames: np.ndarray) -> None:
        """The next frames [F,H,W,3]."""
        first, self._count = self._count, self._count + len(frames)
        self._kept += [
            frames[i - first] for i in range(first, self._count) if i in self._wanted
        ]
        if not self._videos:
            first_u8 = media.enlarged(frames[0], self._factor)
            media.write_image(self._folder / "result.png", first_u8)
            return
        result, beside = self._videos
        # One by one: enlarged and side by side, a segment would take many times its
        # memory.
        for i, picture in enumerate(frames, first):
            shown = self._prepared.reference, self._prepared.poses[i][None]
            clips = [media.enlarged(x, self._factor) for x in (*shown, picture[None])]
            result.write(clips[-1])
            beside.write(media.side_by_side(*clips))

    def close(self) -> None:
        """Completes the videos and writes the contact sheet."""
        for video in self._videos:
            video.close()
        self._videos = []
        prepared = self._prepared
        mask = np.round(prepared.mask[..., None] * 255).astype(np.uint8)
        mask = np.broadcast_to(mask, prepared.reference.shape)
        first = np.stack([prepared.reference, mask, prepared.reference_pose])
        rows = [
            ("reference, what is missing of it, its pose", first),
            ("driving pose", prepared.poses[sorted(self._wanted)]),
            ("result", np.stack(self._kept)),
        ]
        sheet = media.contact_sheet(rows)
        media.write_image(self._folder / "contact_sheet.png", sheet)

    def abandon(self) -> None:
        """Leaves no half of a video."""
        for video in self._videos:
            video.abandon()


def compared(work: Unfinished) -> list[dict[str, float]]:
    """Each segment against the first; plotted where there are several."""
    made = drift.against_first([e.measures for e in work.entries])
    if len(made) > 1:
        panels = [
            plot.lines(title, {name: [m[name] for m in made] for name in names})
            for title, names in (
                ("change of level by segment (0..255)", ("brightness", "colour")),
                (
                    "ratio to the first segment",
                    ("contrast", "saturation", "sharpness"),
                ),
            )
        ]
        media.write_image(work.folder / "drift.png", np.concatenate(panels))
    return made
