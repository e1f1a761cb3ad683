import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight devices; and no optimising, which takes longest for programs that run once.
for flag in (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
):
    given = os.environ.get("XLA_FLAGS", "")
    if flag.partition("=")[0] not in given:
        os.environ["XLA_FLAGS"] = f"{given} {flag}"

from absl import flags  # noqa: E402

flags.FLAGS.mark_as_parsed()
