"""Rooms import downwards only; the table is the architecture."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = "onetoall_jax"

PLAIN = {"errors", "config", "geometry", "batch", "media"}
LEAVES = PLAIN | {"axes", "trees", "rng", "pixels"}
# Room -> rooms it may import; its own room always.
MAY_IMPORT = {
    "errors": set(),
    "host_memory": set(),
    "config": {"errors"},
    "geometry": {"errors"},
    "batch": {"geometry", "errors"},
    "media": {"geometry", "errors"},
    "axes": PLAIN,
    "trees": PLAIN,
    "rng": PLAIN,
    "pixels": PLAIN,
    "models": LEAVES | {"lora"},
    "flow": LEAVES,
    "lora": LEAVES,
    "sharding": LEAVES,
    "pose": PLAIN,
    "alignment": PLAIN | {"pose"},
    "checkpoints": LEAVES,
    "sampling": LEAVES | {"flow"},
    "evaluation": LEAVES,
    "training": LEAVES | {"flow", "lora", "sharding", "checkpoints"},
    "conversion": LEAVES | {"lora", "checkpoints"},
}
MAY_IMPORT["pipelines"] = set(MAY_IMPORT) | {"pipelines"}
MAY_IMPORT["planning"] = set(MAY_IMPORT)
WITHOUT_JAX = PLAIN | {"pose", "alignment"}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == CORE and len(parts) > 1 else None


def core_files() -> list[tuple[str, Path]]:
    files = []
    for path in sorted((ROOT / CORE).rglob("*.py")):
        parts = path.relative_to(ROOT / CORE).with_suffix("").parts
        if parts != ("__init__",):
            files.append((parts[0], path))
    return files


@pytest.mark.parametrize(("room", "path"), core_files(), ids=lambda x: str(x)[-40:])
def test_a_file_imports_only_rooms_below_its_own(room, path):
    used = {room_of(name) for name in imported(path)} - {None, room}
    assert used <= MAY_IMPORT[room], f"{path.name} imports {used - MAY_IMPORT[room]}"
    outside = {name.split(".")[0] for name in imported(path)}
    assert "data_pipeline" not in outside
    if room in WITHOUT_JAX:
        assert not outside & {"jax", "flax", "optax", "orbax"}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "data_pipeline").rglob("*.py")), ids=lambda p: p.stem
)
def test_the_data_pipeline_needs_no_model(path):
    used = {room_of(name) for name in imported(path)} - {None}
    offline = "prepare" in path.parts or path.stem in ("cache_latents", "preview")
    allowed = PLAIN | {"pose", "alignment"} | ({"pipelines"} if offline else set())
    assert used <= allowed


def test_drawing_and_loading_start_without_jax():
    code = (
        "import onetoall_jax.pose.draw, data_pipeline.loader, sys; "
        "assert not {'jax', 'flax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_importing_the_package_imports_nothing_heavy():
    code = "import onetoall_jax, sys; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
