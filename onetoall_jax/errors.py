"""The one exception that entry points turn into a sentence for the user."""

import sys
from collections.abc import Callable
from typing import Any


class UserError(Exception):
    """Something the user can mend; the message says what is wrong and what to do."""


def reported(main: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps an entry point: a UserError becomes one line on stderr and exit code 2."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None

    return wrapped
