"""Mesh shapes and remat policies, ranked by the formulas."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from onetoall_jax.errors import UserError
from onetoall_jax.planning import plan
from onetoall_jax.planning.plan import Plan, Request
from onetoall_jax.planning.work import REPEATED
from onetoall_jax.sharding.mesh import MeshConfig

# Share of a device's memory that a plan by formula may fill: the formula errs.
_FILLED = 0.9
# More devices than this to a clip's tokens, or to its heads, is never the best.
_MOST_CONTEXT, _MOST_TENSOR = 32, 4


def ranked(request: Request) -> list[Plan]:
    """Plans by formula for all meshes and policies that can run, the best first.

    Those that fit come first, by time; equal times by the memory left. The rest follow
    by memory, so that the nearest miss is seen.

    Raises:
      UserError: no mesh takes this batch.
    """
    plans = [plan.estimate(case) for case in candidates(request)]
    if not plans:
        raise UserError(
            f"No mesh of {request.topology.devices} devices takes {request.batch} "
            "clips: make --batch a multiple of a power of two."
        )
    return sorted(plans, key=_order)


def candidates(request: Request) -> Iterator[Request]:
    """The request with every mesh and policy that its batch allows."""
    devices = request.topology.devices
    policies = ("none",) if request.sampler else tuple(REPEATED)
    for context in _divisors(devices, _MOST_CONTEXT):
        for tensor in _divisors(devices // context, _MOST_TENSOR):
            if request.settings.model.num_heads % tensor:
                continue
            for data in _divisors(devices // context // tensor, devices):
                fsdp = devices // context // tensor // data
                mesh = {
                    "data": data,
                    "fsdp": fsdp,
                    "context": context,
                    "tensor": tensor,
                }
                try:
                    plan.check(request, mesh)
                except UserError:
                    continue
                if request.sampler and data * fsdp > request.batch:
                    continue
                for remat in policies:
                    yield _with(request, mesh, remat)


def recommended(plans: list[Plan]) -> Plan | None:
    """The first of ranked plans, or None if none fits."""
    return plans[0] if _fits(plans[0]) else None


def _with(request: Request, mesh: dict[str, int], remat: str) -> Request:
    settings = request.settings
    changed = dataclasses.replace(
        settings,
        mesh=MeshConfig(rules=settings.mesh.rules, **mesh),
        training=dataclasses.replace(settings.training, remat=remat),
    )
    named: dict[str, Any] = {f"mesh.{axis}": n for axis, n in mesh.items()}
    if not request.sampler:
        named["training.remat"] = remat
    return dataclasses.replace(
        request, settings=changed, changes={**request.changes, **named}
    )


def _divisors(n: int, most: int) -> list[int]:
    return [k for k in range(1, min(n, most) + 1) if n % k == 0]


def _fits(made: Plan) -> bool:
    return made.limit is None or made.used <= _FILLED * made.limit


def _order(made: Plan) -> tuple[bool, float, float]:
    if not _fits(made):
        return True, made.used, 0.0
    # A hundredth of a second is no difference that constant rates could tell.
    seconds = 0.0 if made.time is None else round(made.time.step, 2)
    return False, seconds, made.used
