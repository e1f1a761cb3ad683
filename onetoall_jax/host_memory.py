"""Memory of the process on its host: what is freed goes back to the system."""

import ctypes

LARGE = 4 * 2**20  # bytes
_M_MMAP_THRESHOLD = -3  # of glibc's mallopt


def give_back_large_arrays() -> None:
    """From now on arrays of `LARGE` bytes go back to the system as they are freed.

    By itself glibc raises that size to the largest array freed so far, and then keeps
    some for every thread that ever held one: a process that draws a long clip grows by
    some MB now and then. For programs, not for libraries; elsewhere nothing happens.
    """
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE)
    except (AttributeError, OSError, TypeError):  # no glibc
        return
