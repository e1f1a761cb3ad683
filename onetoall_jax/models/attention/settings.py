"""How attention is computed: which form, in which blocks. No number of the result."""

import dataclasses

KERNELS = ("auto", "plain", "chunked", "cudnn", "splash")
CONTEXT_FORMS = ("auto", "ulysses", "ring")


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Sizes of the pieces that a kernel works on; 0 leaves one to the kernel.

    Attributes:
      query, keys: of the forward pass; the chunked form has `query` only.
      keys_compute: keys of one matrix product inside a block of keys.
      query_backward, keys_backward, keys_backward_compute: of the backward pass.
    """

    query: int = 0
    keys: int = 0
    keys_compute: int = 0
    query_backward: int = 0
    keys_backward: int = 0
    keys_backward_compute: int = 0


@dataclasses.dataclass(frozen=True)
class Tuned:
    """Blocks that were the fastest for one shape, as one device sees it.

    Attributes:
      kernel: that they belong to.
      tokens, keys, head_dim: lengths of queries and keys, width of a head.
    """

    kernel: str
    tokens: int
    keys: int
    head_dim: int
    blocks: Blocks


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """Form of attention.

    Attributes:
      kernel: one of KERNELS; "auto" chooses by device, type and size.
      context: how devices that share a clip's tokens attend to all of them. "ulysses":
        each takes some heads of all tokens, by an all-to-all before and after; any
        kernel. "ring": keys and values go round; memory-bounded XLA form. "auto" is
        "ulysses" wherever every device gets a head.
      blocks: of the kernel, where `tuned` has no row for the shape.
      tuned: winners by shape, as `python -m onetoall_jax.pipelines.tune` finds them.
      tuned_from: file of winners, taken in beside `tuned`; "" is none.
    """

    kernel: str = "auto"
    context: str = "auto"
    blocks: Blocks = Blocks()
    tuned: tuple[Tuned, ...] = ()
    tuned_from: str = ""

    def __post_init__(self) -> None:
        for name, known in (("kernel", KERNELS), ("context", CONTEXT_FORMS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"attention.{name} is {getattr(self, name)!r}: known are {known}"
                )

    def blocks_for(self, kernel: str, tokens: int, keys: int, head_dim: int) -> Blocks:
        """Blocks of a kernel at a shape."""
        for row in self.tuned:
            if (row.kernel, row.tokens, row.keys, row.head_dim) == (
                kernel,
                tokens,
                keys,
                head_dim,
            ):
                return row.blocks
        return self.blocks
