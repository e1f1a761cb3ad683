"""Failed writes: what the system said, whatever types the writers wrap it in."""

from collections.abc import Iterator

_FULL = ("No space left on device", "Disk quota exceeded", "File too large")


def is_full(error: BaseException) -> bool:
    """Was there no room left?"""
    text = _text(error)
    return any(sign in text for sign in _FULL)


def reason(error: BaseException) -> str:
    """A few words for the user."""
    text = _text(error)
    found = next((sign for sign in _FULL if sign in text), None)
    if found is None and isinstance(error, OSError):
        found = error.strerror
    return found or str(error).strip().split("\n")[0][:200]


def _text(error: BaseException) -> str:
    return " ".join(str(e) for e in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
