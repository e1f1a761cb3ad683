"""Work for many processes; one that dies costs only the piece it was at."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _Worker(NamedTuple):
    process: Any
    pipe: Connection


def results(
    function: Callable[[T], R],
    pieces: Sequence[T],
    workers: int,
    lost: Callable[[T], R],
) -> Iterator[tuple[int, R]]:
    """(number, result) of every piece, as they are done.

    A process ends with its parent, however that ends.

    Args:
      function: picklable; what it raises ends the whole.
      workers: processes; with none of them everything is done in this one.
      lost: result of a piece whose process died: a broken decoder, or no memory left.
    """
    if not workers:
        yield from ((i, function(piece)) for i, piece in enumerate(pieces))
        return
    waiting = iter(enumerate(pieces))
    busy: dict[Connection, tuple[_Worker, int]] = {}

    def give(worker: _Worker) -> None:
        number, piece = next(waiting, (-1, None))
        if number < 0:
            worker.pipe.close()
            return
        worker.pipe.send(piece)
        busy[worker.pipe] = worker, number

    try:
        for _ in range(min(workers, len(pieces))):
            give(_start(function))
        while busy:
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                worker, number = busy.pop(pipe)
                try:
                    made, error = pipe.recv()
                except (EOFError, ConnectionResetError):
                    worker.process.join()
                    yield number, lost(pieces[number])
                    give(_start(function))
                    continue
                if error is not None:
                    raise error
                give(worker)
                yield number, made
    finally:
        for worker, _ in busy.values():
            worker.process.kill()
            worker.process.join()


def _start(function: Callable[[T], R]) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(function, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _work(function: Callable[[T], R], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    while True:
        try:
            piece = pipe.recv()
        except EOFError:
            return
        answer: tuple[Any, Exception | None]
        try:
            answer = function(piece), None
        except Exception as error:  # told to the parent, which raises it
            answer = None, error
        try:
            pipe.send(answer)
        except OSError:
            return  # nobody is there to hear it
