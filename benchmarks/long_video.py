"""Memory, programs and seconds of one long clip, drawn as a user would.

    python -m benchmarks.long_video --frames=900 --out=runs/long_video

Animates a procedural person with the shipped model and prints one JSON object: resident
memory after every segment, programs compiled, seconds of each part. Draws the memory as
a small plot. Every file of the result lies in the folder too.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipeline import synthetic
from data_pipeline.synthetic import SyntheticConfig
from onetoall_jax import errors, media
from onetoall_jax.evaluation import plot
from onetoall_jax.host_memory import give_back_large_arrays
from onetoall_jax.pipelines import animate as animating
from onetoall_jax.pipelines import animator as animators
from onetoall_jax.pipelines.preparing import PrepareConfig
from onetoall_jax.pose import files

_COMPILED = "/jax/core/compile/backend_compile_duration"


def resident_mb() -> float:
    """This process's resident memory, in MB of 10^6 bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("this system does not tell a process's memory")


def pair(folder: Path, num_frames: int) -> None:
    """Writes me.png, me.npz and dance.npz of a procedural person."""
    config = SyntheticConfig(num_frames=num_frames, canvas_side=0)
    index = 0
    while True:
        try:
            clip = synthetic.make_clip(config, "test", index)
            break
        except ValueError:  # its camera moves, and in so long a clip off the wall
            index += 1
    media.write_image(folder / "me.png", clip.frames[0])
    track = files.Track(clip.keypoints, config.height, config.width, config.fps)
    files.write(folder / "dance.npz", track)
    files.write(folder / "me.npz", track._replace(keypoints=clip.keypoints[:1]))


def measured(num_frames: int, folder: Path, checkpoint: Path) -> dict[str, Any]:
    """Draws the clip; what it needed."""
    memory: list[float] = []
    compiled: list[float] = []

    def count(event: str, duration_secs: float, **more: Any) -> None:
        if event == _COMPILED:
            compiled.append(duration_secs)

    pair(folder, num_frames)
    before = resident_mb()
    model = animators.load(checkpoint)
    cpu, begun = time.process_time(), time.perf_counter()
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        _, report = animating.animate(
            folder / "me.png",
            folder / "dance.npz",
            reference_keypoints=folder / "me.npz",
            model=model,
            out=folder / "out",
            config=PrepareConfig(num_frames=num_frames),
            output_type="none",
            progress=lambda done, total, left_s: memory.append(resident_mb()),
        )
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    written = media.Video(folder / "out" / "result.mp4").frames()
    after = np.array(memory[1:])  # from the second segment on
    return {
        "frames": num_frames,
        "written": sum(1 for _ in written),
        "size": report["size"],
        "segments": len(memory),
        "programs": len(compiled),
        "MB before": round(before, 1),
        "MB after the second segment": round(after[0], 1),
        "MB at most": round(after.max(), 1),
        "most over second": round(after.max() / after[0], 4),
        "last quarter over second": round(
            statistics.median(memory[-len(memory) // 4 :]) / after[0], 4
        ),
        "seconds": {k: round(v, 2) for k, v in report["seconds"].items()},
        "seconds in all": round(time.perf_counter() - begun, 1),
        "CPU seconds": round(time.process_time() - cpu, 1),
        "MB": [round(m, 1) for m in memory],
    }


@errors.reported
def main(argv: list[str]) -> None:
    """Draws, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=900)
    parser.add_argument("--checkpoint", type=Path, default=animators.SHIPPED)
    parser.add_argument("--out", type=Path, required=True, help="not yet there")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True)
    give_back_large_arrays()  # as sample.py does
    found = measured(args.frames, args.out, args.checkpoint)
    panel = plot.lines("resident memory by segment, MB", {"MB": found["MB"]})
    media.write_image(args.out / "memory.png", panel)
    (args.out / "memory.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
