"""Adapters for one person at tiny size: clips of them, training, held-out report.

    python tools/tiny_lora.py --output=runs/character
    python tools/tiny_lora.py --output=runs/character --control

The base is the tiny model that ships with the package, or --base. All clips show one
person that it never saw, moving in other ways before other backgrounds; those of the
report are held out. --control trains adapters for as long on clips of anybody, so that
what the person is worth can be told from what training on is worth.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from onetoall_jax import errors  # noqa: E402
from tools import tiny_run  # noqa: E402

SHIPPED = ROOT / "onetoall_jax" / "assets" / "tiny"


def _data(folder: Path, clips: int, held_out: int, *more: str) -> Path:
    if not (folder / "clips").exists():
        words = [f"--output={folder}", f"--clips={clips}", f"--test_clips={held_out}"]
        tiny_run.call("-m", "data_pipeline.synthetic", *words, *more)
    return folder


def _train(base: Path, data: Path, workdir: Path, steps: int) -> Path:
    tiny_run.call(
        "train.py",
        "--config=configs/lora.py:tiny",
        f"--workdir={workdir}",
        f"--config.init_from={base}",
        f"--config.data.root={data}",
        f"--config.training.steps={steps}",
        f"--config.training.optimizer.warmup_steps={max(1, steps // 5)}",
    )
    return workdir


def report(base: Path, trained: dict[str, Path], data: Path, out: Path) -> None:
    """Scores adapters and their base on the held-out clips of a data set."""
    from data_pipeline import loader
    from data_pipeline.settings import DataConfig
    from onetoall_jax import config
    from onetoall_jax.pipelines import animator as animators
    from onetoall_jax.pipelines import evaluate

    alone = animators.load(base)
    same = config.to_dict(alone.sampling)
    made = {name: animators.load(path, same) for name, path in trained.items()}
    settings = config.build(DataConfig, alone.settings.data, "data")
    test = dataclasses.replace(settings, root=str(data), split="test")
    clips = loader.open_rows(str(data), "test")
    count = len(clips.sizes)
    held = evaluate.joined(
        loader.evaluation_batches(test, alone.codec.geometry, count, count)
    )
    evaluate.compare({**made, "base": alone}, held, out)


@errors.reported
def main(argv: list[str]) -> None:
    """Makes what is missing, trains, reports."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/character"))
    parser.add_argument("--base", type=Path, default=SHIPPED)
    parser.add_argument("--character", type=int, default=7, help="number of the person")
    parser.add_argument("--clips", type=int, default=200, help="training clips")
    parser.add_argument("--held_out", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--control", action="store_true")
    args = parser.parse_args(argv)
    output, base = args.output.resolve(), args.base.resolve()
    counts = args.clips, args.held_out
    # Another seed: motions and backgrounds that no tiny base was trained on either.
    own = _data(output / "data", *counts, "--seed=1", f"--character={args.character}")
    trained = {"adapters": _train(base, own, output / "adapters", args.steps)}
    if args.control:
        anybody = _data(output / "anybody", *counts, "--seed=1")
        trained["adapters for anybody"] = _train(
            base, anybody, output / "adapters_for_anybody", args.steps
        )
    report(base, trained, own, output / "report")
    for name in ("held_out.mp4", "held_out.png", "report.json"):
        print(f"  {output / 'report' / name}")


if __name__ == "__main__":
    main(sys.argv[1:])
