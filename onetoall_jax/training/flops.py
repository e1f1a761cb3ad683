"""Floating-point operations of a training step by part, and the peaks of devices.

Model operations: a multiply-add counts two; norms, activations and what
rematerialisation repeats count nothing; nor does the codec. Backward passes count what
the trainable set needs: a gradient to the input where something before it is trained, a
gradient to the weight where the weight is.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from onetoall_jax import trees
from onetoall_jax.lora import LoraConfig


class Sizes(Protocol):
    """The numbers of the network that the table reads (`models.settings`)."""

    num_layers: int
    mlp_dim: int
    in_channels: int
    out_channels: int
    text_dim: int
    time_dim: int
    patch: tuple[int, int, int]
    reference_layers: int
    pose_layers: int
    pose_channels: int
    pose_strides: tuple[tuple[int, int, int], ...]
    prefix_channels: int

    @property
    def dim(self) -> int: ...


class Clip(NamedTuple):
    """Sizes of one clip: pixels, token grid without prefix, rows of text."""

    frames: int
    height: int
    width: int
    grid: tuple[int, int, int]
    text: int


class Op(NamedTuple):
    """One row of the table, for one clip.

    Attributes:
      name: of the parameters it uses, or of the attention.
      kind: "matmul", "attention" or "convolution".
      forward: operations of the forward pass.
      backward: operations of the backward pass.
    """

    name: str
    kind: str
    forward: float
    backward: float


def operations(
    cfg: Sizes,
    clip: Clip,
    trainable: Sequence[str],
    adapters: LoraConfig = LoraConfig(),  # noqa: B008
) -> list[Op]:
    """The table of one clip.

    Args:
      trainable: patterns of the trained parameters; () gives a pure forward pass.
      adapters: trained beside their kernels, and counted with them.
    """
    return list(_Table(cfg, clip, trainable, adapters).rows())


def block(cfg: Sizes, clip: Clip, trainable: Sequence[str]) -> list[Op]:
    """The table of one main block that has trained parts before it.

    Keys and values of the prompt are made ahead of all blocks and not counted.
    """
    table, trains = _Table(cfg, clip, trainable, LoraConfig()), bool(trainable)
    table.moved = trains
    rows = table.block("dit/blocks", table.tokens, False, trains)
    ahead = ("text_attention/key", "text_attention/value")
    return [op for op in rows if not op.name.endswith(ahead)]


def total(ops: Sequence[Op]) -> float:
    """Operations of forward and backward together."""
    return sum(op.forward + op.backward for op in ops)


class _Table:
    """Walks the network in order and remembers what depends on a trained parameter."""

    def __init__(
        self, cfg: Sizes, clip: Clip, trainable: Sequence[str], adapters: LoraConfig
    ):
        self.cfg, self.clip = cfg, clip
        self.trained: Callable[[str], bool] = trees.matches(tuple(trainable))
        targets = adapters.targets if adapters.rank else ()
        self.rank = adapters.rank
        self.adapted = trees.matches(tuple(f"{name}$" for name in targets))
        f, h, w = clip.grid
        self.reference = h * w
        self.tokens = (f + bool(cfg.pose_layers)) * h * w
        self.moved = False  # does the running activation need a gradient?

    def rows(self) -> Iterator[Op]:
        cfg, clip, d = self.cfg, self.clip, self.cfg.dim
        patch = cfg.patch[0] * cfg.patch[1] * cfg.patch[2]
        features = False
        if cfg.reference_layers:
            yield from self._extractor(patch)
            features = self.moved
        self.moved = False
        rows = [("in", cfg.text_dim), ("out", d)]
        for name, width in rows:
            yield self.dense(f"dit/text_embedding/{name}", clip.text, width, d)
        text, self.moved = self.moved, False
        yield from self._time("dit")
        time, self.moved, pose = self.moved, False, False
        if cfg.pose_layers:
            yield from self._pose_resnet()
            pose, self.moved = self.moved, False
            yield from self._prefix(patch)
        width = patch * cfg.in_channels
        yield self.dense("dit/patch_embedding", self.tokens, width, d)
        self.moved |= time
        for i in range(cfg.num_layers):
            group = (
                "lead_blocks" if cfg.pose_layers >= i and cfg.pose_layers else "blocks"
            )
            yield from self.block(f"dit/{group}", self.tokens, text, features)
            if 1 <= i <= cfg.pose_layers:
                self.moved |= pose
                yield from self.block("pose_control/blocks", self.tokens)
                yield self.dense("pose_control/projections", self.tokens, d, d)
        width = patch * cfg.out_channels
        yield self.dense("dit/head/projection", self.tokens, d, width)

    def dense(self, name: str, rows: int, width: int, features: int) -> Op:
        """Matrix product [rows, width] x [width, features], with its adapter's."""
        forward, moved = 2.0 * rows * width * features, self.moved
        op = self._weighted(name, "matmul", forward)
        if not self.adapted(name):
            return op
        self.moved = True
        down, up = 2.0 * rows * width * self.rank, 2.0 * rows * self.rank * features
        # Of the pair both gradients are needed, and the one between them.
        back = 2 * up + down * (1 + moved)
        return op._replace(forward=forward + down + up, backward=op.backward + back)

    def block(
        self, name: str, tokens: int, text: bool | None = None, features: bool = False
    ) -> Iterator[Op]:
        """A transformer block; `text` None is one without text and reference."""
        d, attention = self.cfg.dim, f"{name}/attention"
        before, after = self.moved, self.moved
        for part in ("query", "key", "value"):
            self.moved = before
            yield self.dense(f"{attention}/{part}", tokens, d, d)
            after |= self.moved
        yield _attention(attention, tokens, tokens, d, after, after)
        if text is not None and self.cfg.reference_layers:
            query, kv = after, features
            for part in ("reference_key", "reference_value"):
                self.moved = features
                yield self.dense(f"{attention}/{part}", self.reference, d, d)
                kv |= self.moved
            yield _attention(
                f"{attention}/reference", tokens, self.reference, d, query, kv
            )
            after |= kv
        self.moved = after
        yield self.dense(f"{attention}/out", tokens, d, d)
        if text is not None:
            yield from self._text_attention(f"{name}/text_attention", tokens, text)
        yield self.dense(f"{name}/mlp/in", tokens, d, self.cfg.mlp_dim)
        yield self.dense(f"{name}/mlp/out", tokens, self.cfg.mlp_dim, d)
        self.moved |= self.trained(f"{name}/modulation")

    def _text_attention(self, name: str, tokens: int, text: bool) -> Iterator[Op]:
        d, rows = self.cfg.dim, self.clip.text
        yield self.dense(f"{name}/query", tokens, d, d)
        after, kv = self.moved, text
        for part in ("key", "value"):
            self.moved = text
            yield self.dense(f"{name}/{part}", rows, d, d)
            kv |= self.moved
        yield _attention(name, tokens, rows, d, after, kv)
        self.moved = after | kv
        yield self.dense(f"{name}/out", tokens, d, d)

    def _time(self, name: str) -> Iterator[Op]:
        d = self.cfg.dim
        yield self.dense(f"{name}/time_embedding/in", 1, self.cfg.time_dim, d)
        yield self.dense(f"{name}/time_embedding/out", 1, d, d)
        yield self.dense(f"{name}/time_projection", 1, d, 6 * d)

    def _extractor(self, patch: int) -> Iterator[Op]:
        d, name = self.cfg.dim, "reference_extractor"
        yield from self._time(name)
        time, self.moved = self.moved, False
        width = 2 * patch * self.cfg.in_channels
        yield self.dense(f"{name}/patch_embedding", self.reference, width, d)
        self.moved |= time
        for i in range(self.cfg.reference_layers + 1):
            if i:
                yield from self.block(f"{name}/blocks", self.reference)
            moved = self.moved
            yield self.dense(f"{name}/projections", self.reference, d, d)
            # The projection leaves the stream; only the features carry its gradient.
            if i < self.cfg.reference_layers:
                self.moved = moved

    def _prefix(self, patch: int) -> Iterator[Op]:
        c, latent = self.cfg.prefix_channels, self.cfg.in_channels
        pixels = self.reference * patch
        widths = [("conv_in", 2 * latent * c)]
        widths += [(f"res_{i // 2}/conv{i % 2 + 1}", c * c) for i in range(6)]
        widths += [("conv_out", c * latent)]
        for name, macs in widths:
            forward = 2.0 * 9 * pixels * macs
            yield self._weighted(f"prefix_encoder/{name}", "convolution", forward)

    def _pose_resnet(self) -> Iterator[Op]:
        c, d = self.cfg.pose_channels, self.cfg.dim
        sizes = [self._pose_pixels(n) for n in range(len(self.cfg.pose_strides) + 1)]
        convolutions = [("conv_in", sizes[0] * 3 * c)]
        for i in range(len(self.cfg.pose_strides)):
            level = f"level_{i}"
            convolutions += [(f"{level}/conv{j}", sizes[i] * c * c) for j in (1, 2)]
            convolutions += [(f"{level}/down", sizes[i + 1] * c * c)]
        convolutions += [("conv_out", sizes[-1] * c * d)]
        for name, macs in convolutions:
            forward = 2.0 * 27 * macs
            yield self._weighted(f"pose_resnet/{name}", "convolution", forward)

    def _pose_pixels(self, levels: int) -> int:
        """Pixels of clip and reference pose after so many levels."""
        counts = 0
        for frames in (self.clip.frames, 1):
            h, w = self.clip.height, self.clip.width
            for t, p, q in self.cfg.pose_strides[:levels]:
                frames, h, w = (frames - 1) // t + 1, h // p, w // q
            counts += frames * h * w
        return counts

    def _weighted(self, name: str, kind: str, forward: float) -> Op:
        trained = self.trained(f"{name}/kernel")
        backward = forward * (float(self.moved) + float(trained))
        self.moved |= trained or self.trained(f"{name}/bias")
        return Op(name, kind, forward, backward)


def _attention(
    name: str, tokens: int, keys: int, dim: int, query: bool, key_value: bool
) -> Op:
    """Two products forward; backward four, fewer where a side needs no gradient."""
    forward = 4.0 * tokens * keys * dim
    products = (1 if query else 0) + (2 if key_value else 0)
    backward = forward / 2 * (products + 1 if products else 0)
    return Op(name, "attention", forward, backward)


# Part of `device_kind` -> dense bfloat16 peak in TFLOP/s, by the vendors' pages.
PEAKS = (
    ("H200", 989.4),
    ("H100", 989.4),
    ("H20", 148.0),
    ("A100", 312.0),
    ("TPU v4", 275.0),
    ("TPU v5 lite", 197.0),
    ("TPU v5e", 197.0),
    ("TPU v5", 459.0),
    ("TPU v6 lite", 918.0),
    ("TPU v6e", 918.0),
    ("TPU7x", 2307.0),
)


def peak(device_kind: str) -> float | None:
    """TFLOP/s of a device, None where the table does not know it (a CPU)."""
    for name, value in PEAKS:
        if name in device_kind:
            return value
    return None
