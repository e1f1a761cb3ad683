"""The one exception that entry points turn into a sentence for the user."""

import sys
from collections.abc import Callable
from typing import Any


class UserError(Exception):
    """Something the user can mend; the message says what is wrong and what to do."""


class Stopped(Exception):  # noqa: N818 (all went well)
    """Asked to stop, a run saved itself: started again, it goes on from there."""


STOPPED = 75  # "temporary failure, try again", as schedulers know it


def reported(main: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps an entry point: a UserError becomes one line on stderr and exit code 2.

    A run that was stopped and can go on ends with a line too, and with STOPPED.
    """

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            raise SystemExit(STOPPED) from None

    return wrapped
