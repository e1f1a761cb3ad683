"""A plan as text."""

from collections.abc import Iterator, Mapping, Sequence

from onetoall_jax.planning import work
from onetoall_jax.planning.plan import Plan
from onetoall_jax.planning.rates import GIB


def text(plan: Plan) -> str:
    """Tables of one plan."""
    return "\n".join(_lines(plan))


def mesh(sizes: Mapping[str, int]) -> str:
    """Axes of a mesh that hold more than one device."""
    used = [f"{axis} {n}" for axis, n in sizes.items() if n > 1]
    return " x ".join(used) or "one device"


def ranking(plans: Sequence[Plan]) -> str:
    """One line for each plan, in their order."""
    lines = [
        f"{'mesh':<36}{'remat':<11}{'GiB':>8}{'of limit':>10}{'step s':>9}{'MFU':>6}"
    ]
    for plan in plans:
        limit, time = plan.limit, plan.time
        share = "" if limit is None else f"{plan.used / limit:.0%}"
        seconds = "" if time is None else f"{time.step:.2f}"
        used = "" if plan.utilisation is None else f"{plan.utilisation:.0%}"
        remat = "" if plan.request.sampler else plan.request.settings.training.remat
        source = "" if plan.compiled is None else "  compiled"
        lines.append(
            f"{mesh(plan.mesh):<36}{remat:<11}{plan.used / GIB:8.2f}{share:>10}"
            f"{seconds:>9}{used:>6}{source}"
        )
    return "\n".join(lines)


def _lines(plan: Plan) -> Iterator[str]:
    asked = plan.request
    yield (
        f"{asked.name} on {asked.topology.name}: {asked.topology.devices} devices, "
        f"{mesh(plan.mesh)}; {asked.batch} clips of {asked.size}; "
        + ("sampled" if asked.sampler else f"remat {asked.settings.training.remat}")
    )
    source = "compiled" if plan.compiled else "formula, nothing was compiled"
    yield f"\nmemory of one device, GiB ({source})"
    yield from _memory(plan)
    yield "\noperations of one clip, TFLOP (table)"
    yield from _operations(plan)
    told = plan.compiled is not None and not plan.compiled.needed
    source = "read from the program" if told else "formula"
    yield f"\ncollectives of one step ({source})"
    for row in plan.sends:
        yield f"  {row.kind:<24}{row.calls:10.0f} calls {row.sent / GIB:10.3f} GiB sent"
    if not plan.sends:
        yield "  none"
    if plan.time is not None:
        yield "\ntime of one step, s (predicted by rates, not measured)"
        yield from _time(plan)


def _memory(plan: Plan) -> Iterator[str]:
    for name, n in plan.arguments.items():
        yield f"  {name:<28}{n / GIB:9.3f}"
    c = plan.compiled
    if c is None or c.needed:
        for name, n in plan.temporary.items():
            yield f"  {name:<28}{n / GIB:9.3f}  (formula)"
    if c is not None and not c.needed:
        yield f"  {'all arguments, as laid out':<28}{c.arguments / GIB:9.3f}"
        yield f"  {'temporary':<28}{c.temporary / GIB:9.3f}"
        yield f"  {'output not shared with them':<28}{(c.output - c.shared) / GIB:9.3f}"
        yield f"  {'program':<28}{c.code / GIB:9.3f}"
        error = plan.estimated / plan.used - 1
        yield f"  {'formula instead':<28}{plan.estimated / GIB:9.3f}  ({error:+.0%})"
    yield f"  {'used':<28}{plan.used / GIB:9.3f}"
    if plan.limit is not None:
        share = plan.used / plan.limit
        verdict = "fits" if plan.fits else "does not fit"
        margin = (plan.limit - plan.used) / GIB
        yield f"  {'limit':<28}{plan.limit / GIB:9.3f}"
        yield f"  {share:.0%} of the limit, margin {margin:.2f} GiB: {verdict}"
    if c is not None:
        yield (
            f"  traced in {c.trace_seconds:.0f} s, compiled in "
            f"{c.compile_seconds:.0f} s, with {c.host_gib:.1f} GiB of this machine"
        )


def _operations(plan: Plan) -> Iterator[str]:
    yield f"  {'part':<22}{'kind':<13}{'forward':>9}{'backward':>9}{'repeated':>9}"
    for row in plan.rows:
        figures = (row.forward, row.backward, row.repeated)
        columns = "".join(f"{n / 1e12:9.3f}" for n in figures)
        yield f"  {row.part:<22}{row.kind:<13}{columns}"
    whole = work.model_operations(plan.rows)
    yield f"  the network's, forward and backward: {whole / 1e12:.4g}"


def _time(plan: Plan) -> Iterator[str]:
    assert plan.time is not None
    for name in ("matmul", "attention", "convolution", "elementwise"):
        yield f"  {name:<28}{getattr(plan.time, name):9.3f}"
    yield f"  {'sending, meanwhile':<28}{plan.time.sending:9.3f}"
    yield f"  {'step':<28}{plan.time.step:9.3f}"
    assert plan.utilisation is not None
    yield f"  {plan.utilisation:.0%} of the devices' peak in the network's operations"
