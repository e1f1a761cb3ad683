"""The whole path at tiny size: data, stages 0 to 3, held-out report, a sampled video.

    python tools/tiny_run.py --output=runs/tiny
    python tools/tiny_run.py --output=runs/long --clips=8000 --steps 800 400 2400 300

Runs the very programs that larger sizes run, as one would by hand. On two CPU cores the
first takes about a quarter of an hour if nothing else runs, the second an hour.
"""

import argparse
import dataclasses
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from onetoall_jax import errors  # noqa: E402
from onetoall_jax.errors import UserError  # noqa: E402


def call(*words: str) -> None:
    """Runs one of the project's own commands; its failure is ours."""
    print("$ python " + " ".join(words), flush=True)
    if subprocess.run([sys.executable, *words], cwd=ROOT, check=False).returncode:
        raise UserError(f"`python {words[0]}` failed: see above.")


def _train(stage: int, data: Path, output: Path, steps: int | None) -> Path:
    from configs import stage0, stage1, stage2, stage3

    config = (stage0, stage1, stage2, stage3)[stage].get_config("tiny")
    workdir = output / f"stage{stage}"
    before = (
        [] if stage == 0 else [f"--config.init_from={output / f'stage{stage - 1}'}"]
    )
    steps = steps or config.training.steps
    call(
        "train.py",
        f"--config=configs/stage{stage}.py:tiny",
        f"--workdir={workdir}",
        f"--config.data.root={data}",
        f"--config.training.steps={steps}",
        f"--config.training.optimizer.warmup_steps={min(100, max(1, steps // 5))}",
        *before,
    )
    return workdir


def report(checkpoint: Path, data: Path, out: Path, clips: int) -> None:
    """Scores a tiny checkpoint on held-out clips and writes pictures into `out`."""
    from data_pipeline import loader
    from data_pipeline.settings import DataConfig
    from onetoall_jax import config
    from onetoall_jax.pipelines import animator as animators
    from onetoall_jax.pipelines import evaluate

    animator = animators.load(checkpoint)
    settings = config.build(DataConfig, animator.settings.data, "data")
    settings = dataclasses.replace(settings, root=str(data))
    geometry = animator.codec.geometry
    train = loader.evaluation_batches(settings, geometry, 512, 32)
    test = dataclasses.replace(settings, split="test")
    held = evaluate.joined(loader.evaluation_batches(test, geometry, clips, clips))
    evaluate.evaluate(animator, held, evaluate.mean_frame(train), out)


@errors.reported
def main(argv: list[str]) -> None:
    """Makes what is missing, trains, reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--clips", type=int, default=2500, help="training clips")
    parser.add_argument("--held_out", type=int, default=64)
    parser.add_argument("--steps", type=int, nargs=4, help="of each stage")
    parser.add_argument("--report_only", type=Path, help="a checkpoint to score")
    args = parser.parse_args(argv)
    begun = time.monotonic()
    output = args.output.resolve()
    data = output / "data"
    if not (data / "clips").exists():
        call("-m", "data_pipeline.synthetic", f"--output={data}",
              f"--clips={args.clips}", f"--test_clips={args.held_out}")  # fmt: skip
    checkpoint = args.report_only
    if checkpoint is None:
        for stage in range(4):
            steps = args.steps[stage] if args.steps else None
            checkpoint = _train(stage, data, output, steps)
    report(checkpoint, data, output / "report", args.held_out)
    minutes = (time.monotonic() - begun) / 60
    print(f"\n{minutes:.1f} minutes; look at")
    for name in ("held_out.mp4", "held_out.png", "report.json"):
        print(f"  {output / 'report' / name}")


if __name__ == "__main__":
    main(sys.argv[1:])
