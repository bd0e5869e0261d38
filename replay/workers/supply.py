"""The supply: how the requests of a plan become calls, in the command or beside a worker.

What a plan decides of a request is an entry of some fifty bytes: where its records lie in the trace, when it
is due, for whom it waits. Where a machine reads the trace itself, entries go there, and a supplier makes the
calls; elsewhere the command makes them and sends them whole. Both make them by one recipe.
"""

import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any, Final

import msgpack

from tbench.capture.errors import InputError, TbenchError
from tbench.capture.trace_reader import Lookup, Trace
from tbench.replay.plan import Planned, check_of, parsed_of
from tbench.replay.target import Counts, Recipe, Step
from tbench.replay.workers.calls import MOST_FRAME, PIECE

TOGETHER: Final = 16
"""Calls are handed on so many at a time, and what came with them."""

_pack: Callable[[object], bytes] = msgpack.Packer().pack


class Entries:
    """Makes entries of steps, as bytes for a supplier; before the first goes the recipe."""

    def __init__(self, recipe: Recipe) -> None:
        fresh = replace(recipe, targets=[replace(target) for target in recipe.targets])
        self._head = _pack(pickle.dumps(fresh))  # with nothing counted
        # The recorded answer is read only where its length is asked for.
        self._records = 2 if any(target.lengths != "no" for target in recipe.targets) else 1

    def __call__(self, step: Step) -> bytes:
        planned, due, arm = step
        head, self._head = self._head, b""
        return head + _pack(
            (
                planned.places[: self._records],
                planned.check,
                arm,
                due,
                planned.index,
                planned.cycle,
                planned.clone,
                planned.session,
                planned.after,
                planned.think,
                planned.opening,
                planned.history,
                planned.uses,
            )
        )


def step_of(entry: Sequence[Any], lookup: Lookup) -> Step:
    """The step that an entry is of. Raises InputError where the trace has another request at its place."""
    places, check, arm, due, index, cycle, clone, session, after, think, *of_session = entry
    opening, history, uses = of_session
    exchange = lookup.exchange(places)
    if exchange is None or check_of(exchange.request.id) != check:
        raise InputError("the trace has changed while it was read; replay it again")
    body = parsed_of(exchange)
    planned = Planned(
        index=index,
        cycle=cycle,
        clone=clone,
        session=session,
        offset=0.0,
        places=places,
        check=check,
        exchange=exchange,
        info=body.info,
        payload=body.payload if body.exact else None,
        after=after,
        think=think,
        opening=opening,
        history=history,
        uses=uses,
    )
    return Step(planned, due, arm)


class Supplier:
    """Makes calls of the entries that come over a socket, and sends them over another. For one thread: `run`.

    `failure` says why it could not go on; `counts` are those of its recipe.
    """

    def __init__(self, trace: Trace, entries: socket.socket, calls: socket.socket) -> None:
        self._lookup = Lookup(trace)
        self._entries, self._calls = entries, calls
        self._frames = msgpack.Unpacker(use_list=False, max_buffer_size=MOST_FRAME)
        self._recipe: Recipe | None = None
        self.failure: str | None = None

    @property
    def counts(self) -> Counts:
        return self._recipe.counts if self._recipe else []

    def run(self) -> None:
        """Until there are no more entries, or nobody takes calls; then the worker gets no more."""
        try:
            while not self.failure and (data := self._entries.recv(PIECE)):
                calls = self._made(data)
                while together := b"".join(islice(calls, TOGETHER)):
                    self._calls.sendall(together)
        except OSError:  # a socket's: whoever watches the worker says so
            pass
        finally:
            for sock in (self._entries, self._calls):
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _made(self, data: bytes) -> Iterator[bytes]:
        """The calls of the entries that are whole by now, up to one that cannot be made."""
        try:
            self._frames.feed(data)
            for part in self._frames:
                if self._recipe is None:
                    self._recipe = pickle.loads(part)  # noqa: S301 (of the command, over its own connection)
                else:
                    yield self._recipe.frame(step_of(part, self._lookup))
        except TbenchError as error:
            self.failure = str(error)
        except Exception as error:  # a worker without calls, not one that waits for ever
            self.failure = f"{type(error).__name__}: {error}"
