"""Times taken in turn, so that whatever disturbs the machine disturbs all alike."""

import statistics
import time
from collections.abc import Callable, Mapping


def in_turn(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every call in every round, after one round that is not counted.

    Args:
      calls: name -> function that returns when its work is done.
      clock: of the seconds; `time.process_time` counts those of this process's threads,
        which other programs on the machine disturb less.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begun = clock()
            call()
            times[name].append(clock() - begun)
    return times


def ratio(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """(median, smallest, largest) of ours over theirs, round by round."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)
