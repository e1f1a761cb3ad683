"""The prepared pair as a folder that a person can look at and edit.

    reference.png       the picture, as the model gets it
    mask.png            grey: white is to be invented (absent: nothing is)
    reference_pose.png  its pose
    poses/000000.png    the driving poses, one picture a frame
    meta.json           every choice, and what the folder was made of
    contact_sheet.png   all of it at a glance; nobody reads it

Made by hand, the pictures are enough. Read too: the release's cache folders, and
`src_ref.png` with `src_pose.mp4` of Wan-Animate.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onetoall_jax import media
from onetoall_jax.errors import UserError
from onetoall_jax.geometry import Geometry
from onetoall_jax.pipelines import prepare_pair
from onetoall_jax.pipelines.frames import Frames, forwards
from onetoall_jax.pipelines.prepare_pair import Prepared

REFERENCE, MASK, REFERENCE_POSE = "reference.png", "mask.png", "reference_pose.png"
POSES, META, SHEET = "poses", "meta.json", "contact_sheet.png"
_RELEASE = {
    "reference": "image_input.png",
    "mask": "mask_input.png",
    "reference_pose": "pose_input.png",
    "poses": "pose.mp4",
}
_WAN_REFERENCE, _WAN_POSE = "src_ref.png", "src_pose.mp4"
_HAND_MADE_FPS = 16.0  # of training
_SHOWN = 8  # frames in a contact sheet

Made = Mapping[str, Any]


def obtain(folder: Path, made_of: Made, make: Callable[[], Prepared]) -> Prepared:
    """The folder if it stands for `made_of`, else made anew.

    Args:
      made_of: hashes of the inputs and the settings, ready for JSON.
      make: prepares the pair.
    Raises:
      UserError: it was made of something else and then edited by hand, or cannot be
        written.
    """
    folder = Path(folder)
    if folder.exists():
        meta = _meta(folder)
        before = meta.get("made_of")
        edited = _edited(folder, meta)
        if before is None or before == made_of:
            how = "made by hand" if before is None else "unchanged"
            if before is not None and edited:
                how = f"edited by hand ({', '.join(edited)})"
            return _noting(read(folder), f"{folder} is used as it is: {how}")
        if edited:
            differs = sorted(k for k in made_of if before.get(k) != made_of[k])
            raise UserError(
                f"{folder} has been edited by hand ({', '.join(edited)}) but was made "
                f"with another {', '.join(differs)}: name another folder, or give this "
                "one without --reference and --driving."
            )
    write(folder, make(), made_of)
    return read(folder)


def _noting(prepared: Prepared, *notes: str) -> Prepared:
    return prepared._replace(notes=(*prepared.notes, *notes))


# --- ours ----------------------------------------------------------------------------


def write(folder: Path, prepared: Prepared, made_of: Made | None = None) -> None:
    """Writes the folder, pose by pose; it appears when it is complete.

    Raises:
      UserError: it cannot be written.
    """
    half = folder.with_name(folder.name + ".part")
    try:
        shutil.rmtree(half, ignore_errors=True)
        (half / POSES).mkdir(parents=True)
        mask = np.round(prepared.mask * 255).astype(np.uint8)
        media.write_image(half / REFERENCE, prepared.reference)
        media.write_image(half / MASK, mask)
        media.write_image(half / REFERENCE_POSE, prepared.reference_pose)
        for i, pose in enumerate(prepared.poses):
            media.write_image(half / POSES / f"{i:06d}.png", pose)
        media.write_image(half / SHEET, sheet(prepared))
        meta = {
            "frames": len(prepared.poses),
            "size": list(prepared.size),
            "fps": prepared.fps,
            "notes": list(prepared.notes),
            "choices": prepared.choices,
            "made_of": made_of,
            "files": digests(half),
        }
        (half / META).write_text(json.dumps(meta, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(half, folder)
    except OSError as error:
        raise UserError(f"{folder} could not be written: {error.strerror}.") from error
    finally:
        shutil.rmtree(half, ignore_errors=True)


def read(folder: Path) -> Prepared:
    """A folder as `write` makes it, or made by hand.

    Raises:
      UserError: a picture is missing, damaged or of another size.
    """
    folder, meta = Path(folder), _meta(folder)
    names = sorted((folder / POSES).glob("*.png"))
    if not names:
        raise UserError(
            f"{folder / POSES} holds no pictures of poses (000000.png, ...)."
        )
    reference = media.read_image(folder / REFERENCE)
    size = reference.shape[0], reference.shape[1]

    def picture(path: Path) -> np.ndarray:
        made = media.read_image(path)
        if made.shape[:2] != size:
            raise UserError(
                f"{path} is {made.shape[0]}x{made.shape[1]} pixels, the reference "
                f"beside it {size[0]}x{size[1]}: all pictures must have one size."
            )
        return made

    mask: np.ndarray = np.zeros(size, np.uint8)
    if (folder / MASK).exists():
        mask = picture(folder / MASK)[..., 0]
    picture(names[0])
    return Prepared(
        reference,
        mask.astype(np.float32) / 255,
        picture(folder / REFERENCE_POSE),
        Frames(len(names), size, lambda i: picture(names[i])),
        float(meta.get("fps", _HAND_MADE_FPS)),
        tuple(meta.get("notes", ())),
        dict(meta.get("choices", {})),
    )


def _meta(folder: Path) -> dict[str, Any]:
    path = Path(folder) / META
    try:
        meta = json.loads(path.read_text()) if path.exists() else {}
        if not isinstance(meta, dict) or float(meta.get("fps", 1)) <= 0:
            raise ValueError("it needs a positive fps")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not as it is written: {error}.") from error
    return meta


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each picture, and one of all poses."""
    made = {}
    for name in (REFERENCE, MASK, REFERENCE_POSE):
        if (folder / name).exists():
            made[name] = _digest([folder / name])
    made[POSES] = _digest(sorted((folder / POSES).glob("*.png")))
    return made


def digest(path: Path | None) -> str | None:
    """SHA-256 of a file, or of all files of a folder; None of nothing."""
    if path is None:
        return None
    path = Path(path)
    return _digest(sorted(path.iterdir()) if path.is_dir() else [path])


def _digest(paths: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode())
        try:
            with open(path, "rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    return total.hexdigest()


def _edited(folder: Path, meta: Mapping[str, Any]) -> list[str]:
    now, then = digests(folder), meta.get("files", {})
    return [name for name in {**then, **now} if now.get(name) != then.get(name)]


def sheet(prepared: Prepared) -> np.ndarray:
    """One picture: what the model gets, and whether the poses lie on the reference."""
    chosen = np.unique(
        np.linspace(0, len(prepared.poses) - 1, _SHOWN).round().astype(int)
    )
    poses = prepared.poses[chosen]
    mask = np.round(prepared.mask[..., None] * 255).astype(np.uint8)
    mask = np.broadcast_to(mask, prepared.reference.shape)
    over = (0.4 * prepared.reference + 0.6 * poses).astype(np.uint8)
    own = 0.4 * prepared.reference + 0.6 * prepared.reference_pose
    first = [prepared.reference, mask, prepared.reference_pose, own.astype(np.uint8)]
    rows = [
        ("reference, what is missing of it, its pose, both", np.stack(first)),
        (f"driving poses {chosen[0]} to {chosen[-1]}", poses),
        ("driving poses over the reference", over),
    ]
    height = 160 if prepared.size[0] < 320 else 320
    return media.contact_sheet(rows, columns=_SHOWN, height=height)


# --- of others -----------------------------------------------------------------------

Shown = Callable[[np.ndarray, tuple[int, int]], tuple[np.ndarray, list[str]]]


def given(folder: Path, geometry: Geometry, cap: int, shown: Shown) -> Prepared:
    """A folder given instead of a picture and a driving clip.

    Ours or hand-made, the release's cache, or Wan-Animate's.

    Args:
      cap: short side that a foreign folder's pictures are reduced to.
      shown: draws the pose of a reference at a size, for folders that have none; ->
        (pose, notes).
    Raises:
      UserError: none of them, or incomplete.
    """
    folder = Path(folder)
    if (folder / _WAN_POSE).exists():
        return _wan_animate(folder, geometry, cap, shown)
    if (folder / _RELEASE["poses"]).exists():
        return _release(folder, geometry, cap)
    if not (folder / REFERENCE).exists():
        raise UserError(
            f"{folder} is no prepared folder: it has neither {REFERENCE} nor "
            f"{_RELEASE['poses']} nor {_WAN_POSE}."
        )
    prepared = read(folder)
    geometry.check_size(*prepared.size)
    return _noting(prepared, f"{folder} is used as it is")


def _release(folder: Path, geometry: Geometry, cap: int) -> Prepared:
    """Source: sections 1 and 2 of the released preprocessing page."""
    pictures = {
        name: media.read_image(folder / file)
        for name, file in _RELEASE.items()
        if name != "poses"
    }
    before = pictures["reference"].shape[:2]
    sizes = prepare_pair.output_sizes(before, None, cap, geometry)
    poses, fps = _video(folder / _RELEASE["poses"], sizes)
    return Prepared(
        prepare_pair.fitted(pictures["reference"], sizes),
        prepare_pair.fitted(pictures["mask"][..., 0], sizes).astype(np.float32) / 255,
        prepare_pair.fitted(pictures["reference_pose"], sizes),
        poses,
        fps,
        (
            f"{folder} is a cache folder of the release",
            *prepare_pair.resized(before, sizes[-1]),
        ),
        {"mode": "release's cache folder"},
    )


def _wan_animate(folder: Path, geometry: Geometry, cap: int, shown: Shown) -> Prepared:
    reference = media.read_image(folder / _WAN_REFERENCE)
    before = reference.shape[0], reference.shape[1]
    sizes = prepare_pair.output_sizes(before, None, cap, geometry)
    poses, fps = _video(folder / _WAN_POSE, sizes)
    pose, notes = shown(reference, sizes[-1])
    return Prepared(
        prepare_pair.fitted(reference, sizes),
        np.zeros(sizes[-1], np.float32),
        pose,
        poses,
        fps,
        (
            f"warning: {_WAN_POSE} of {folder} is drawn in Wan-Animate's style, which "
            "this model has not learned: expect worse motion than with the driving "
            "video itself",
            *notes,
            *prepare_pair.resized(before, sizes[-1]),
        ),
        {"mode": "poses drawn by Wan-Animate"},
    )


def _video(path: Path, sizes: list[tuple[int, int]]) -> tuple[Frames, float]:
    video = media.Video(path)
    count = sum(1 for _ in video.frames())
    frame = forwards(
        lambda: (prepare_pair.fitted(picture, sizes) for picture in video.frames())
    )
    return Frames(count, sizes[-1], frame), video.fps
