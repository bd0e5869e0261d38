"""What stands behind every endpoint: who may ask, what goes wrong, the engine and the ledger."""

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any

from tbench.simulator import catalogue
from tbench.simulator.call import Call, HungUpError, Receive, Send
from tbench.simulator.driver import Driver, Outlet
from tbench.simulator.engine import Engine, QueueFullError
from tbench.simulator.faults import RateLimit, asked_fault, drawn_fault
from tbench.simulator.profile import Profile
from tbench.simulator.prompt import Prompt
from tbench.simulator.refusal import gateway_page, invalid, no_such_model, refusal
from tbench.simulator.truth import Ledger

_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Who may ask for what. Without `keys` every key is good that does not begin with "bad"."""

    seed: int = 0
    keys: tuple[str, ...] = ()
    any_model: bool = False

    def admits(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            return False
        if not self.keys:
            return not key.startswith("bad")
        return any(hmac.compare_digest(key.encode(), good.encode()) for good in self.keys)

    def serves(self, model: str) -> bool:
        return self.any_model or model in catalogue.SERVED


class Service:
    """Create it inside a running event loop, and run `driver.run` as a task."""

    def __init__(self, profile: Profile, rules: Rules, ledger: Ledger) -> None:
        self.profile = profile
        self.rules = rules
        self.ledger = ledger
        self.driver = Driver(Engine(profile.engine, rules.seed), ledger.late)
        self.ending = False
        self._limit = RateLimit(profile.limits.requests_per_s, profile.limits.burst)
        self._serials = count()

    def hang_up(self) -> None:
        """Cut what is still in flight: the server ends."""
        self.ending = True
        self.driver.close_all()

    def open(self, scope: Mapping[str, Any], receive: Receive, send: Send, endpoint: str) -> Call:
        """A request has come; its fate follows from the seed and its place in the order of arrival."""
        rng = Random(b"%d/%d" % (self.rules.seed, next(self._serials)))
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        # As the service's own: two random groups, then what looks like a ray id.
        ident = f"{_word(rng, 7)}-{_word(rng, 6)}-{rng.getrandbits(64):016x}"
        request_id = headers.get("x-request-id", ident)
        return Call(
            headers=headers,
            receive=receive,
            send=send,
            line=scope["tbench.line"],
            record=self.ledger.open(id=ident, request_id=request_id, endpoint=endpoint),
            rng=rng,
        )

    def admit(self, call: Call, *, free: bool) -> None:
        """Check the key; unless it is free, let faults come in the answer's stead, keep the rate limit.

        Raises Refusal, HungUpError.
        """
        if not self.rules.admits(call.headers.get("authorization", "")):
            raise refusal(401)
        if free:
            return
        asked = asked_fault(call.headers.get("x-sim-fault", ""))
        call.fault = asked or drawn_fault(self.profile.faults, call.rng)
        if call.fault:
            call.record.fault = call.fault.kind
        if call.fault and call.fault.before:
            self._fail(call.fault.kind, call.fault.status)
        wait = self._limit.take(time.monotonic())
        call.said |= self._limit.headers(wait)
        if wait:
            raise refusal(429, {"retry-after": str(max(1, round(wait)))})

    def _fail(self, kind: str, status: int | None) -> None:
        if status is not None:
            waits = {"retry-after": "1"} if status in {429, 503} else {}
            limits = self._limit.headers(1.0) if status == 429 else {}
            raise refusal(status, {**waits, **limits})
        if kind == "html":
            raise gateway_page()
        raise HungUpError

    def check_model(self, model: str) -> None:
        """Raises Refusal for a model that is not served."""
        if not self.rules.serves(model):
            raise no_such_model(model)

    def submit(self, prompts: tuple[Prompt, ...], lengths: list[int]) -> Outlet:
        """Give work to the engine. Raises Refusal while its queue is full."""
        try:
            return self.driver.submit(prompts, lengths)
        except QueueFullError:
            raise refusal(503, {"retry-after": "1"}) from None

    def schedule(self, call: Call, prompts: tuple[Prompt, ...], lengths: list[int]) -> Outlet:
        """As `submit`, unless the request's headers set the times of its tokens."""
        ttft, itl = asked_number(call, "x-sim-ttft-ms"), asked_number(call, "x-sim-itl-ms")
        if ttft is None and itl is None:
            return self.submit(prompts, lengths)
        step = self.profile.engine.step_s * 1e3
        first, gap = (step if value is None else value for value in (ttft, itl))
        return self.driver.script(lengths, first / 1e3, gap / 1e3)


def asked_number(call: Call, header: str) -> float | None:
    """A number from a header of the request, None without one. Raises Refusal."""
    try:
        return call.number(header)
    except ValueError:
        raise invalid(f"{header} must be a number not below 0") from None


def _word(rng: Random, length: int) -> str:
    return "".join(rng.choices(_ALPHABET, k=length))
