"""Clips a second that two loader processes deliver, beside two ways to do it in torch.

    pip install -e '.[parity]'
    python -m benchmarks.data_throughput --out=benchmarks/results/data_throughput.json

29 frames in the 512 bucket, varied at the chances of stage 2, from upright 720p clips.
Four arms take turns, each in a process of its own, warm:

  online  our loader
  cached  our loader, with stored latents in the place of frames
  same    torch's DataLoader around the same functions
  order   torch's DataLoader, work in the order of the release: decode the clip, a fresh
          large canvas for every pose, dimmed as floats, floats before resizing

Reported are seconds and processor seconds a clip, the share of every transform, and the
cores that keep eight H100-class chips busy.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipeline import (
    augment,
    builder,
    cache_latents,
    drawing,
    loader,
    masks,
    synthetic,
    windows,
)
from data_pipeline.builder import Clip, Rows
from data_pipeline.plan import BatchPlan, Plan
from data_pipeline.settings import DataConfig, Resolution, stage_defaults
from onetoall_jax import media
from onetoall_jax.geometry import Geometry
from onetoall_jax.pose.draw import Drawer, Style
from onetoall_jax.pose.keypoints import to_pose

HEIGHT, WIDTH, FRAMES, FPS = 1280, 720, 100, 30.0
GEOMETRY = Geometry()
ARMS = ("online", "cached", "same", "order")
OURS = ("online", "cached")
# Clips a second that eight H100 take at the rates planned for: (with latents encoded on
# the way, with stored ones).
RATES = {"1.3B stage 1": (19.0, 31.0), "1.3B stage 2": (10.0, 10.0),
         "1.3B stage 3": (8.0, 8.0), "14B stage 1": (5.0, 5.0),
         "14B stage 2": (1.9, 1.9), "14B stage 3": (1.4, 1.4)}  # fmt: skip


class Corners:
    """Stands for the VAE: what a latent holds does not matter to the loader."""

    clips, fingerprint = 1, "corners"

    def __call__(self, frames_u8: np.ndarray) -> np.ndarray:
        small = frames_u8[:, ::4, ::8, ::8].astype(np.float32) / 128 - 1
        return np.tile(small, (1, 1, 1, 1, 6))[..., : GEOMETRY.channels]


def clips(count: int) -> Iterator[Clip]:
    """Procedural people before grain, so that coding costs what footage costs."""
    made = synthetic.SyntheticConfig(HEIGHT // 2, WIDTH // 2, FRAMES, FPS, 0)
    for i in range(count):
        small = synthetic.make_clip(made, "train", i)
        noise = np.random.default_rng(i).normal(0, 6, (HEIGHT, WIDTH, 1))
        frames = np.stack([_enlarged(f, noise) for f in small.frames])
        points = small.keypoints * (2, 2, 1)
        yield dataclasses.replace(small, frames=frames, keypoints=points,
                                  lossless=False)  # fmt: skip


def _enlarged(frame: np.ndarray, noise: np.ndarray) -> np.ndarray:
    large = cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(large + noise, 0, 255).astype(np.uint8)


def prepare(folder: Path, count: int) -> None:
    """Data set, videos, pool and latents, unless they are there."""
    if (_stored(folder, 2) / "latents.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)

    def kept() -> Iterator[Clip]:
        for i, clip in enumerate(clips(count)):
            media.write_video(folder / f"{i}.mp4", clip.frames, FPS)
            np.save(folder / f"{i}.npy", clip.keypoints)
            yield clip

    if not builder.exists(folder / "data"):
        builder.write(folder / "data", {"train": kept()})
    rows = Rows(folder / "data", "train")
    points = np.stack([rows.read(i, [0], []).keypoints[0] for i in range(count)])
    size = np.tile([HEIGHT, WIDTH], (count, 1))
    np.savez(folder / "pool.npz", keypoints=points, size=size)
    for stage in (1, 2):
        stored = settings(folder, 1, stage, cached=True)
        stored = dataclasses.replace(stored, workers=0, latents=None)
        cache_latents.write(stored, Corners(), _stored(folder, stage), dtype="bfloat16")


def _stored(folder: Path, stage: int) -> Path:
    return folder / f"latents{stage}"


def settings(
    folder: Path, batch: int, stage: int = 2, *, cached: bool = False
) -> DataConfig:
    """A stage in the 512 bucket, with stored latents or without."""
    config = DataConfig(
        root=str(folder / "data"),
        resolutions=(Resolution("512"),),
        batch=batch,
        workers=2,
        pose_pool=str(folder / "pool.npz"),
        augment=stage_defaults(stage),
    )
    if not cached:
        return config
    where = str(_stored(folder, stage))
    return dataclasses.replace(config, windows=windows.CACHED, latents=where)


def delivered(arm: str, folder: Path, batch: int) -> Iterator[Any]:
    """Batches of an arm, without end."""
    config = settings(folder, batch, cached=arm == "cached")
    if arm in OURS:
        return loader.build(config, GEOMETRY)
    import torch

    dataset: Any = Same(config) if arm == "same" else Order(config, folder)
    return iter(
        torch.utils.data.DataLoader(
            dataset,
            batch_size=None,
            num_workers=config.workers,
            multiprocessing_context="spawn",
        )
    )


class Same:
    """The loader's own functions as a torch data set."""

    def __init__(self, config: DataConfig):
        self._load = loader.Load(config, GEOMETRY, 0, 1)
        self._steps = Plan(config, self._load.sizes)

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, step: int) -> dict[str, Any]:
        import torch

        batch = self._load(self._steps[step])
        return {name: torch.from_numpy(value) for name, value in batch.items()}


class Order:
    """The same samples made in the order of the release."""

    def __init__(self, config: DataConfig, folder: Path):
        self._config, self._folder = config, folder
        self._steps = Plan(config, Rows(config.root, config.split).sizes)

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, step: int) -> dict[str, Any]:
        import torch

        batch = self._steps[step]
        made = [self._sample(batch, int(row)) for row in batch.rows]
        return {name: torch.stack([m[name] for m in made]) for name in made[0]}

    def _sample(self, batch: BatchPlan, row: int) -> dict[str, Any]:
        config, bucket = self._config, batch.bucket
        draws = augment.draw(config.seed, batch.epoch, row)
        window, reference = windows.choose_frames(FRAMES, FPS, bucket.num_frames, draws)
        wanted = [*window, reference]
        frames = decoded(self._folder / f"{row}.mp4", wanted)
        points = np.load(self._folder / f"{row}.npy")[wanted]
        face = draws.face >= config.augment.without_face
        poses = np.stack([draw_as_released(k, HEIGHT, WIDTH, face) for k in points])
        head = masks.heads(points[:-1], HEIGHT, WIDTH, GEOMETRY.temporal)
        hand = masks.hands(points[:-1], HEIGHT, WIDTH, GEOMETRY.temporal)
        last = masks.heads(points[-1:], HEIGHT, WIDTH, GEOMETRY.temporal)
        sample = augment.Sample(
            frames=frames[:-1],
            poses=poses[:-1],
            reference=frames[-1],
            reference_pose=poses[-1],
            mask=np.zeros((HEIGHT, WIDTH), np.uint8),
            region=np.maximum(head, hand),
            keep=masks.keep([], len(window), HEIGHT, WIDTH, GEOMETRY.temporal),
            face_box=loader.bounding_box(last[0]),
        )
        made = augment.apply(
            sample, config.augment, draws, bucket.width / bucket.height
        )
        return floats(made, bucket.height, bucket.width)


def decoded(path: Path, wanted: list[int]) -> np.ndarray:
    """Frames of a video, decoded from its start; only those wanted become RGB."""
    import av

    found = {}
    with av.open(str(path)) as video:
        for i, frame in enumerate(video.decode(video=0)):
            if i in wanted:
                found[i] = frame.to_ndarray(format="rgb24")
            if i >= max(wanted):
                break
    return np.stack([found[i] for i in wanted])


class _Nothing:
    """In the place of a drawer's box, where nothing is cleared."""

    def add(self, *_: Any) -> None:
        pass

    def blacken(self, canvas: np.ndarray) -> None:
        pass


class Released(Drawer):
    """Draws one picture as the release: a fresh canvas, dimmed as a whole in floats."""

    def __init__(self, height: int, width: int):
        super().__init__(height, width)
        self._box = _Nothing()  # type: ignore[assignment]

    def _limbs(self, *points: np.ndarray) -> None:
        super()._limbs(*points, shades=np.arange(256))  # type: ignore[misc]
        self._canvas[:] = (self._canvas * 0.6).astype(np.uint8)


def draw_as_released(
    keypoints: np.ndarray, height: int, width: int, face: bool
) -> np.ndarray:
    """The same picture as ours."""
    cv2.setNumThreads(1)
    pose = to_pose(keypoints, height, width)
    return Released(height, width)(pose, Style(face=face))


def floats(sample: augment.Sample, height: int, width: int) -> dict[str, Any]:
    """Everything as float tensors, cropped and resized by torch."""
    import torch

    def fit(pictures: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()
        h, w = x.shape[2:]
        tall, wide = (int(w * height / width), w)
        if h / w <= height / width:
            tall, wide = h, int(h * width / height)
        top, left = round((h - tall) / 2), round((w - wide) / 2)
        x = x[:, :, top : top + tall, left : left + wide]
        return torch.nn.functional.interpolate(x, (height, width))

    def picture(pictures: np.ndarray) -> torch.Tensor:
        return fit(pictures).div(255).clamp(0, 1).mul(2).sub(1)

    return {
        "frames": picture(sample.frames),
        "pose": picture(sample.poses),
        "reference": picture(sample.reference[None]),
        "reference_pose": picture(sample.reference_pose[None]),
        "mask": fit(sample.mask[None, ..., None]),
        "region": fit(sample.region[..., None]),
        "keep": fit(sample.keep[..., None]),
    }


def used() -> float:
    """Processor seconds of this process and of its living children."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def measured(arm: str, folder: Path, batch: int, warm: int, count: int) -> dict:
    """Seconds and processor seconds a clip, of `count` batches after `warm` ones."""
    batches = delivered(arm, folder, batch)
    for _ in range(warm):
        next(batches)
    begun, cpu = time.perf_counter(), used()
    for _ in range(count):
        next(batches)
    clips_done = count * batch
    return {
        "seconds": (time.perf_counter() - begun) / clips_done,
        "cpu_seconds": (used() - cpu) / clips_done,
    }


# What is timed of a clip: name -> (module, function).
PARTS = {
    "reading and decoding frames": (builder.Rows, "read"),
    "drawing poses": (loader, "draw_poses"),
    "drawing changed heads": (loader, "_changed"),
    "head regions": (masks, "heads"),
    "hand regions": (masks, "hands"),
    "text": (masks, "keep"),
    "variation": (augment, "apply"),
    "crop and resize": (loader, "fitted"),
    "stacking": (loader, "collate"),
}


def shares(arm: str, stage: int, folder: Path, count: int) -> dict[str, float]:
    """Share of the time that every transform takes, in one process."""
    config = settings(folder, 1, stage, cached=arm == "cached")
    load = loader.Load(config, GEOMETRY, 0, 1)
    steps = Plan(config, load.sizes)
    load(steps[0])
    spent = dict.fromkeys(PARTS, 0.0)
    for name, (where, function) in PARTS.items():
        setattr(where, function, _timed(getattr(where, function), spent, name))
    begun = time.process_time()
    for step in range(1, count + 1):
        load(steps[step])
    whole = time.process_time() - begun
    made = {name: seconds / whole for name, seconds in spent.items()}
    made["the rest"] = 1 - sum(made.values())
    return {"cpu_seconds": whole / count, **made}


def _timed(call: Callable, spent: dict[str, float], name: str) -> Callable:
    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = time.process_time()
        try:
            return call(*args, **kwargs)
        finally:
            spent[name] += time.process_time() - begun

    return timed


def cores(
    cpu_seconds: dict[str, float], shares: dict[str, dict[str, float]]
) -> dict[str, dict[str, float]]:
    """Cores for eight chips, a twentieth to spare: clips a second times their cost.

    Args:
      cpu_seconds: of a clip in stage 2 by arm; what stage 1 costs of it follows from
        the shares.
    """
    made: dict[str, dict[str, float]] = {}
    for name, rates in RATES.items():
        made[name] = {}
        for arm, clips_a_second in zip(OURS, rates, strict=True):
            cost = cpu_seconds[arm]
            if name.endswith("stage 1"):
                one, two = (shares[f"{arm}, stage {n}"]["cpu_seconds"] for n in (1, 2))
                cost *= one / two
            made[name][arm] = round(clips_a_second * cost / 0.95, 1)
    return made


def called(*args: str) -> dict[str, Any]:
    """Another process of this benchmark; its last line is its answer."""
    call = [sys.executable, "-m", "benchmarks.data_throughput", *args]
    done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Runs all arms in turn and writes one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/data_throughput"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--warm", type=int, default=4, help="batches before the clock")
    parser.add_argument("--batches", type=int, default=8, help="timed, each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arm", choices=ARMS, help="only this, as a part of a run")
    parser.add_argument("--shares", choices=OURS, help="the same")
    parser.add_argument("--stage", type=int, default=2, help="of the shares")
    args = parser.parse_args()
    prepare(args.folder, args.videos)
    if args.shares:
        print(json.dumps(shares(args.shares, args.stage, args.folder, args.batches)))
        return
    if args.arm:
        sizes = args.batch, args.warm, args.batches
        print(json.dumps(measured(args.arm, args.folder, *sizes)))
        return
    points = np.load(args.folder / "0.npy")[3:4]
    ours = drawing.draw_poses(points, HEIGHT, WIDTH, 2160)[0]
    theirs = draw_as_released(points[0], HEIGHT, WIDTH, True)
    assert np.array_equal(ours, theirs)
    given = [f"--folder={args.folder}", f"--batch={args.batch}", f"--warm={args.warm}",
             f"--batches={args.batches}"]  # fmt: skip
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(args.rounds):
        rounds.append({arm: called(f"--arm={arm}", *given) for arm in ARMS})
        print(f"round {number + 1}: {rounds[-1]}", file=sys.stderr, flush=True)
    report = {
        "name": "data_throughput",
        "clip": f"29 of {FRAMES} frames, {HEIGHT}x{WIDTH} -> 512 bucket, stage 2",
        "processes": 2,
        "cpus": len(os.sched_getaffinity(0)),
        "batch": args.batch,
        "rounds": args.rounds,
        "clips_timed": args.batch * args.batches,
        "arms": {
            arm: {
                what: {
                    "median": round(statistics.median(values), 4),
                    "smallest": round(min(values), 4),
                    "largest": round(max(values), 4),
                }
                for what in ("seconds", "cpu_seconds")
                for values in [[r[arm][what] for r in rounds]]
            }
            for arm in ARMS
        },
    }
    pairs = ("online", "same"), ("online", "order"), ("cached", "order")
    report["times_faster"] = {
        f"{ours} than {theirs}": {
            what: round(statistics.median(r[theirs][what] / r[ours][what]
                                          for r in rounds), 2)
            for what in ("seconds", "cpu_seconds")
        }
        for ours, theirs in pairs
    }  # fmt: skip
    parts = {
        f"{arm}, stage {stage}": called(f"--shares={arm}", f"--stage={stage}", *given)
        for stage in (1, 2)
        for arm in OURS
    }
    report["shares"] = {
        name: {part: round(share, 3) for part, share in found.items()}
        for name, found in parts.items()
    }
    spent = {arm: report["arms"][arm]["cpu_seconds"]["median"] for arm in OURS}
    report["cores_for_eight_h100"] = cores(spent, parts)
    text = json.dumps(report, indent=1)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
