"""The carrier: stands beside a worker on another machine, and hands on what its descriptors carry.

A worker is started as here, over sockets and a file of the carrier's. What goes either way is cut into
blocks, each with its place in its stream, so that a block which is asked for again, or comes twice, counts
once. Where the trace can be read here, entries come in place of calls, and a supplier makes these of them;
nothing else is unpacked, and nothing of a call or an answer is written anywhere but into the spool, which has
no name. Who carries the blocks (replay.workers.on_ray) is not known here.
"""

import os
import pickle
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from itertools import islice
from typing import Any, Final, Literal, NamedTuple

import msgpack

from tbench.capture.errors import InputError, TbenchError
from tbench.capture.runtime import version
from tbench.capture.trace_reader import Lookup, Trace, read_trace
from tbench.replay.plan import Planned, check_of, parsed_of
from tbench.replay.system import BEHIND, headroom, in_front, step_back
from tbench.replay.target import Counts, Recipe, Step
from tbench.replay.workers.calls import GIVE_BACK, MOST_FRAME, PIECE, give_back
from tbench.replay.workers.counters import SharedCounters
from tbench.replay.workers.process import start as start_process

# The supply. What a plan decides of a request is an entry of some fifty bytes: where its records lie in the
# trace, when it is due, for whom it waits. Where a machine reads the trace itself, entries go there, and a
# supplier makes the calls; elsewhere the command makes them and sends them whole. Both have one recipe.

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


# The carrier.

BLOCK: Final = 64 * 1024
"""Bytes of a block, at most. Ray carries what is smaller than 100 KB from process to process, and puts what
is larger into a store of the machine, which may spill to its disk: no prompt is to lie there."""
ALONE_S: Final = 20.0
"""Who is not asked for so long is cut off, and ends its worker: whoever started it counts it as lost."""

Stream = Literal["calls", "control"]


class Report(NamedTuple):
    """What a carrier has to say. `asked` and `answered` are its monotonic clock, seconds.

    `spooled`, `messages` are what follows the places that were asked for; `row` is the worker's row of
    counters. `ended` is its exit code, told with the last of everything, and `stderr` then what it wrote.
    `counts` and `failure` are the supplier's.
    """

    asked: float
    answered: float
    row: bytes
    spooled: bytes
    messages: bytes
    ended: int | None
    stderr: bytes
    counts: Counts
    failure: str | None


class Carrier:
    """One worker's. Its methods may be called from any threads."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self._locks = {"calls": threading.Lock(), "control": threading.Lock()}
        self._taken = {"calls": 0, "control": 0}
        self._messages = bytearray()
        self._news = threading.Event()
        self._freed = 0
        self._released = 0
        self._asked = time.monotonic()
        self._trace: Trace | None = None
        self._supplier: Supplier | None = None

    def describe(self) -> dict[str, Any]:
        """This machine, as far as its user has to know."""
        self._asked = time.monotonic()
        return {"node": socket.gethostname(), "version": version("tbench"), **asdict(headroom())}

    def clock(self) -> float:
        """The clock by which workers here are told when to start, seconds."""
        self._asked = time.monotonic()
        return self._asked

    def read(self, path: str, identity: list[tuple[str, int]]) -> str | None:
        """Open the trace, so that the worker's calls are made here; returns why that cannot be, or None.

        It has to be the one that is known by this identity.
        """
        try:
            trace = read_trace(path)
        except (TbenchError, OSError) as error:
            return str(error)
        if trace.identity != identity:
            return f"{path}: its files are others there"
        self._trace = trace
        return None

    def start(self, number: int, workers: int, reads: bool) -> None:
        """Start the worker, as `number` of so many; it `reads`: its calls are made of the trace here."""
        self._stderr = stderr = self._held.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        self._spool = self._held.enter_context(tempfile.TemporaryFile()).fileno()  # noqa: SIM115
        self._shared = self._held.enter_context(SharedCounters.made(workers))
        self._row = self._shared.row(number)
        calls, their_calls = socket.socketpair()
        control, their_control = socket.socketpair()
        self._streams = {"calls": calls, "control": control}
        if reads:
            assert self._trace is not None
            self._streams["calls"], entries = socket.socketpair()
            self._supplier = Supplier(self._trace, entries, calls)
            threading.Thread(target=self._supply, args=(self._supplier,), daemon=True).start()
        fds = (their_calls.fileno(), their_control.fileno(), self._spool, self._shared.fd)
        with in_front():  # Ray has what it starts give way to all else (niceness 15)
            self._process = start_process(fds, stderr, fork=False)
        their_calls.close()
        their_control.close()
        self._listener = threading.Thread(target=self._listen, args=(control,), daemon=True)
        self._listener.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def feed(self, stream: Stream, place: int, block: bytes) -> None:
        """Hand on the block that stands at this place of its stream; one without bytes ends it.

        Waits while the worker takes no more. A worker that is gone takes anything.
        """
        with self._locks[stream]:
            # Of a block that comes again, only what was not handed on.
            rest = block[max(0, self._taken[stream] - place) :]
            with suppress(OSError):
                if block:
                    self._streams[stream].sendall(rest)
                else:
                    self._streams[stream].shutdown(socket.SHUT_WR)
            self._taken[stream] += len(rest)

    def collect(
        self, spooled: int, heard: int, spent: int, released: int, patience_s: float
    ) -> Report:
        """What there is beyond so many bytes of the spool and of the messages.

        The answer comes after `patience_s` at the latest, at once with a full block or a message.
        All attempts that were read cost `spent`, and the reservations for them were `released`, as Budget has
        them.
        """
        asked = self._asked = time.monotonic()
        with self._shared.money() as money:
            money[0] = spent
            money[1] -= released - self._released
            self._released = released
        if spooled - self._freed >= GIVE_BACK:
            give_back(self._spool, self._freed, spooled - self._freed)
            self._freed = spooled
        if os.fstat(self._spool).st_size - spooled < BLOCK:
            self._news.wait(patience_s)
            self._news.clear()
        # In this order: what was told is in the spool, and what is in the spool was counted as issued.
        ended = None if self._listener.is_alive() else self._process.wait(0)
        messages = bytes(self._messages[heard:])
        block = os.pread(self._spool, BLOCK, spooled)
        if len(block) == BLOCK:
            messages, ended = b"", None  # when all before them is over there
        stderr = b""
        if ended is not None:
            self._stderr.seek(0)
            stderr = self._stderr.read()[-BLOCK:]
        row = self._row.raw
        supplier = self._supplier
        counts, failure = (supplier.counts, supplier.failure) if supplier else ((), None)
        now = time.monotonic()
        return Report(asked, now, row, block, messages, ended, stderr, counts, failure)

    @staticmethod
    def _supply(supplier: Supplier) -> None:
        step_back(BEHIND)  # whatever the sender's niceness is
        supplier.run()

    def _listen(self, control: socket.socket) -> None:
        """Keep what the worker says, until it is gone."""
        with suppress(OSError):
            while data := control.recv(BLOCK):
                self._messages += data
                self._news.set()
        self._news.set()

    def _watch(self) -> None:
        """End a worker of which nobody knows any more."""
        while self._process.wait(1.0) is None:
            if time.monotonic() - self._asked > ALONE_S:
                self._process.kill()
