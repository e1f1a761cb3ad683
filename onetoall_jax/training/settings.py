"""Settings of training as frozen dataclasses."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and the course of its learning rate.

    Attributes:
      weight_decay: decoupled, on the leaves that `decay_on` names.
      decay_on: "all" (biases and norms too, as the release) or "matrices".
      clip_norm: largest global norm of the gradient; 0 leaves it as it is.
      warmup_steps: the rate climbs from 0 in so many steps.
      decay_from: share of all steps after which the rate falls linearly; 1 never.
      final_rate: factor on the rate at the last step.
      accumulation: parts in which a batch is gone through, one update for all.
      ema_decay: of the running mean of the trained parameters; 0 keeps none.
      moments_dtype: that Adam's two moments are stored in; computed in float32. In
        "bfloat16" they take half the memory; a beta2 above 0.99 then loses steps.
    """

    learning_rate: float = 1e-5
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 1e-4
    decay_on: str = "all"
    clip_norm: float = 1.0
    warmup_steps: int = 5000
    decay_from: float = 1.0
    final_rate: float = 1.0
    accumulation: int = 1
    ema_decay: float = 0.0
    moments_dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class ReferenceNoiseConfig:
    """Noise on the visible pixels of the reference.

    Attributes:
      probability: share of the references that get it.
      log_mean, log_std: the logarithm of its size is normal with these.
      double_exponential: the released code takes the exponential twice, so that the
        size is about 1.05 instead of 0.05.
    """

    probability: float = 0.5
    log_mean: float = -3.0
    log_std: float = 0.5
    double_exponential: bool = False


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """One run of one stage.

    Attributes:
      steps: optimiser steps of the whole run.
      trainable: name of a set in `stages.TRAINABLE`.
      dtype: of the computation; trained parameters and loss are float32.
      frozen_dtype: of the frozen kernels; "bfloat16" takes half the memory and, as
        kernels are used in `dtype`, alters no bit of a computation in bfloat16.
      remat: what blocks keep for the backward pass: "none" everything, "block" their
        input, "attention" what attention gave as well, "offload" both in the host's
        memory. Less kept is more computed.
      region_weight: weight of faces and hands in the loss; 1 treats all alike.
      token_replace: the program can take clean context frames.
      token_replace_probability: share of clips that do.
      shared_draws: one draw of time, noise and coin for the whole batch, as all ranks
        of the release share their seed; else every clip has its own.
      round_sigma: noise level and noisy latents are rounded to bfloat16, as released.
      log_every, checkpoint_every, sample_every: in steps; 0 for samples is never.
      keep_checkpoints: newest ones kept on disk.
      compilation_cache: folder of compiled programs, shared by runs; "" keeps none.
    """

    steps: int
    trainable: str
    seed: int = 43
    dtype: str = "bfloat16"
    frozen_dtype: str = "float32"
    remat: str = "block"
    region_weight: float = 3.0
    token_replace: bool = False
    token_replace_probability: float = 0.0
    shared_draws: bool = False
    round_sigma: bool = False
    reference_noise: ReferenceNoiseConfig = ReferenceNoiseConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    log_every: int = 10
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    sample_every: int = 0
    compilation_cache: str = "~/.cache/onetoall_jax"
