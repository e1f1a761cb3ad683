"""What every configuration shares."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import sizes


def size(arg: str) -> str:
    """Size named by a configuration's argument; "" is the released 1.3B.

    Raises:
      ValueError: no such size; the known ones are listed.
    """
    name = arg or "1_3b"
    if name not in sizes.NAMES:
        raise ValueError(f"size {arg!r}: known are {', '.join(sizes.NAMES)}")
    return name


# Of attention's kernels; the tuner finds the fastest.
_BLOCKS = (
    "query",
    "keys",
    "keys_compute",
    "query_backward",
    "keys_backward",
    "keys_backward_compute",
)


def base(stage: int, size: str) -> ConfigDict:
    """A stage's settings before its own differences, shaped like RunSettings."""
    c = ConfigDict()
    c.name = f"stage{stage}_{size}"
    c.recipe = "default"
    c.init_from = f"runs/stage{stage - 1}_{size}" if stage else "scratch"
    c.init_command = f"python train.py --config=configs/stage{stage - 1}.py:{size}"
    c.model = sizes.model(size, reference=stage > 0, pose=stage > 1)
    c.mesh = ConfigDict(dict(data=1, fsdp=-1, context=1, tensor=1, rules=()))
    blocks = dict.fromkeys(_BLOCKS, 0)  # 0 leaves the size to the kernel
    c.attention = ConfigDict(
        dict(kernel="auto", context="auto", tuned_from="", blocks=blocks)
    )
    c.data = ConfigDict(
        dict(root="runs/data", num_frames=29, batch=8, seed=43, workers=2)
    )
    c.data.pose_pool = placeholder(str)
    c.data.windows = "any"
    c.data.windows_per_clip = 4
    c.data.latents = placeholder(str)
    c.data.aspects = ()
    c.data.canvas_side = 2160
    c.data.augment = ConfigDict(_AUGMENT[stage])
    c.data.resolutions = _RESOLUTIONS[stage]
    c.training = _training(stage)
    c.sampling = ConfigDict(dict(steps=30, shift=7.0, segment_frames=29, seed=42))
    c.sampling.codec_dtype = placeholder(str)
    c.sampling.short_side = 576 if size == "14b" else 384
    c.codec = ConfigDict(dict(kind="wan_vae", params="checkpoints/vae", most_pixels=0))
    c.text = ConfigDict(
        dict(
            length=226,
            sampling_length=512,
            embedding="checkpoints/empty_prompt.npy",
            negative="checkpoints/negative_prompt.npy",
        )
    )
    if size == "tiny":
        _shrink(c)
    return c


# Chances of the release; stage 0 has no conditions.
_AUGMENT = (
    dict(
        drop_all=1.0,
        drop_reference=0.0,
        mask_face=0.0,
        mask_rectangle=0.0,
        keep_reference=0.0,
        zoom=0.0,
        without_face=0.0,
        without_poses=True,
        cartoon_words=(),
    ),
    dict(
        drop_all=0.0,
        drop_reference=0.2,
        mask_face=0.5,
        mask_rectangle=0.2,
        keep_reference=0.0,
        zoom=0.0,
        without_face=0.0,
        cartoon_words=(),
        reference_first=0.2,
        hand_regions=False,
        without_poses=True,
        same_picture=True,
    ),
    dict(
        drop_all=0.1,
        drop_reference=0.1,
        mask_face=0.5,
        mask_rectangle=0.2,
        keep_reference=0.2,
        zoom=0.1,
        without_face=0.2,
        change_pose=0.7,
    ),
    dict(
        drop_all=0.1,
        drop_reference=0.1,
        mask_face=0.3,
        mask_rectangle=0.2,
        keep_reference=0.3,
        zoom=0.1,
        without_face=0.2,
        change_pose=0.5,
    ),
)
_TINY_AUGMENT = dict(
    drop_reference=0.05,
    mask_face=0.1,
    mask_rectangle=0.05,
    keep_reference=0.05,
    zoom=0.05,
    without_face=0.0,
    change_pose=0.0,
)
_SMALL = dict(table="512", share=1.0, image_share=0.05)
_RESOLUTIONS = (
    (dict(table="512", share=1.0, image_share=0.0),),
    (dict(table="512", share=1.0, image_share=0.0),),
    (dict(table="768", share=0.5, image_share=0.0), _SMALL),
    (dict(table="768", share=0.8, image_share=0.05), _SMALL),
)


def _training(stage: int) -> ConfigDict:
    """The release's settings of a stage, with our defaults where it slipped."""
    return ConfigDict(
        dict(
            steps=40_000,
            trainable=f"stage{stage}" if stage else "all",
            seed=43,
            dtype="bfloat16",
            frozen_dtype="float32",
            remat="block",
            region_weight=3.0,
            token_replace=False,
            token_replace_probability=0.0,
            shared_draws=False,
            round_sigma=False,
            log_every=10,
            checkpoint_every=1000,
            keep_checkpoints=2,
            sample_every=1000,
            compilation_cache="~/.cache/onetoall_jax",
            reference_noise=dict(
                probability=0.5, log_mean=-3.0, log_std=0.5, double_exponential=False
            ),
            optimizer=dict(
                learning_rate=1e-5,
                beta1=0.9,
                beta2=0.95,
                eps=1e-8,
                weight_decay=1e-4,
                decay_on="all",
                clip_norm=1.0,
                warmup_steps=5000,
                decay_from=1.0,
                final_rate=1.0,
                accumulation=1,
                ema_decay=0.0,
                moments_dtype="float32",
            ),
        )
    )


def _shrink(c: ConfigDict) -> None:
    """What the tiny size changes in every stage: minutes on a CPU instead of days."""
    c.codec = ConfigDict(dict(kind="block", block=dict(channels=48)))
    c.text = ConfigDict(dict(length=8))
    c.sampling = ConfigDict(
        dict(
            steps=4,  # a small model's left-over noise grows with more
            shift=3.0,
            image_guidance=1.0,
            pose_guidance=1.0,
            segment_frames=9,
            short_side=32,
            seed=42,
        )
    )
    c.data.resolutions = (dict(table="tiny", share=1.0, image_share=0.0),)
    c.data.batch = 16
    c.data.num_frames = 5
    c.data.canvas_side = 256
    # Thousands of clips instead of millions: nearly all must teach the task itself.
    for name, chance in _TINY_AUGMENT.items():
        c.data.augment[name] = min(chance, c.data.augment.get(name, 0.0))
    t = c.training
    t.dtype = "float32"
    t.remat = "none"
    t.region_weight = 1.0
    t.reference_noise.probability = 0.2
    t.log_every = 10
    t.checkpoint_every = 50
    t.sample_every = 0
    o = t.optimizer
    o.learning_rate = 2e-3
    o.beta2 = 0.99
    o.weight_decay = 0.01
    o.decay_on = "matrices"
    o.decay_from = 0.7
    o.final_rate = 0.05
    o.ema_decay = 0.995


def steps(c: ConfigDict, count: int) -> None:
    """A run of `count` steps whose warm-up is short enough for it."""
    c.training.steps = count
    c.training.optimizer.warmup_steps = min(100, count // 5)
