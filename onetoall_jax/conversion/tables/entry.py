"""One line of a key table: a leaf of ours and the foreign tensors it is made of."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

# Name -> (foreign array -> ours, ours -> foreign), for one layer.
LAYOUTS: dict[str, tuple[Callable, Callable]] = {
    "same": (lambda a: a, lambda a: a),
    # Linear weights [out, in] <-> kernels [in, out].
    "dense": (np.transpose, np.transpose),
    # Convolutions [out, in, k...] <-> [k..., in, out].
    "conv": (
        lambda a: np.moveaxis(a, (0, 1), (-1, -2)),
        lambda a: np.moveaxis(a, (-1, -2), (0, 1)),
    ),
    # A leading axis of one, as modulation tables have.
    "row": (lambda a: a[0], lambda a: a[None]),
    # Channels with trailing axes of one, as the VAE's norms have.
    "gamma3": (lambda a: a[:, 0, 0, 0], lambda a: a[:, None, None, None]),
    "gamma2": (lambda a: a[:, 0, 0], lambda a: a[:, None, None]),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A leaf and its foreign keys.

    Attributes:
      leaf: our name, "dit/blocks/mlp/in/kernel".
      keys: foreign names; one for each layer where the leaf is stacked.
      layout: key of LAYOUTS, the same for every layer.
      stacked: the leaf has a leading axis of layers.
    """

    leaf: str
    keys: tuple[str, ...]
    layout: str = "same"
    stacked: bool = False

    def foreign_shape(self, ours: Sequence[int]) -> tuple[int, ...]:
        """Shape of one foreign tensor, from the shape of our leaf."""
        one = tuple(ours[1:]) if self.stacked else tuple(ours)
        # A broadcast view has the shape without the memory.
        probe = np.broadcast_to(np.zeros((), np.int8), one)
        return LAYOUTS[self.layout][1](probe).shape


def entries(
    leaf: str, key: str, layers: Sequence[int] | None, *parts: tuple[str, str, str]
) -> list[Entry]:
    """Lines of one module.

    Args:
      leaf, key: names of the module, ours and foreign; `key` may hold "{i}".
      layers: foreign layer numbers that our stacked leaf holds, or None.
      parts: (our part, foreign part, layout) below the module.
    """
    made = []
    for ours, theirs, layout in parts:
        numbers = [None] if layers is None else list(layers)
        keys = tuple((key + theirs).replace("{i}", str(i)) for i in numbers)
        made.append(Entry(leaf + ours, keys, layout, layers is not None))
    return made


DENSE = (("/kernel", ".weight", "dense"), ("/bias", ".bias", "same"))
CONV = (("/kernel", ".weight", "conv"), ("/bias", ".bias", "same"))
NORM = (("/scale", ".weight", "same"), ("/bias", ".bias", "same"))
SCALE = (("/scale", ".weight", "same"),)


def known_sizes(
    shapes: Mapping[str, Sequence[int]],
    places: Mapping[str, Sequence[tuple[str, int]]],
    rename: Callable[[str], str] = lambda key: key,
) -> dict[str, int]:
    """Numbers that tensors tell by their shapes.

    Args:
      places: number -> (foreign name, axis) where it may be read; the first that is
        there counts, so that a file with a hole still tells its sizes.
      rename: name in the tables' layout -> name in the file's.
    """
    found = {}
    for number, where in places.items():
        for key, axis in where:
            shape = shapes.get(rename(key), ())
            if axis < len(shape):
                found[number] = int(shape[axis])
                break
    return found


def count(shapes: Mapping[str, Sequence[int]], prefix: str) -> int:
    """Layers under `prefix`: one more than the highest number that follows it."""
    after = (k[len(prefix) :].split(".")[0] for k in shapes if k.startswith(prefix))
    return max((int(n) for n in after if n.isdigit()), default=-1) + 1
