"""Which requests belong to one conversation, and which answer a request waits for.

A chat request continues an earlier one when all of that one's messages, followed by an assistant's
message, begin its own. Clients that cut old messages off, or write them anew, keep the last ones: so it also
continues one of the same caller whose last words, and the answer that they replied to, stand before an
assistant's message in it. Hashes are Python's own, of this process: they live in memory only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tbench.capture.exchange import Request
from tbench.capture.jsontext import rewritten
from tbench.capture.providers import ParsedRequest, parse_request
from tbench.capture.recent import Recent

SESSION_HEADERS = (
    "x-session-id",
    "x-conversation-id",
    "x-thread-id",
    "x-chat-id",
    "session-id",
    "session_id",
    "conversation-id",
    "helicone-session-id",
    "x-session-affinity",
)
"""Headers that name a conversation; the first that is there wins. A pseudonym serves as well."""

_NAMING = frozenset(SESSION_HEADERS)
REMEMBERED = 100_000
RIVALS = 16


class Place(NamedTuple):
    """Where a request stands: its session, its turn (0 first), the exchange whose answer it contains.

    A retry has the place of the attempt that it repeats. Sessions are numbered from 1 on, as they begin.
    """

    session: str
    turn: int
    parent: str | None

    @property
    def holds(self) -> tuple[str, ...]:
        """The exchanges whose answers it contains."""
        return () if self.parent is None else (self.parent,)

    @property
    def number(self) -> int:
        """The session's."""
        return int(self.session[1:])


@dataclass(slots=True)
class _Seen:
    """A request that later ones may continue."""

    id: str
    place: Place
    client: str | None
    answer: int | None
    continued: bool = False


class Sessions:
    """Sorts requests into sessions as they arrive. Feed it in arrival order.

    Time per request grows with its own messages only, memory with `remembered` requests at most: a
    conversation whose last turn is older than that many requests starts anew.
    """

    def __init__(self, *, remembered: int = REMEMBERED) -> None:
        self._prefixes: Recent[int, tuple[_Seen, ...]] = Recent(remembered)
        self._endings: Recent[int, tuple[_Seen, ...]] = Recent(remembered)
        self._named: Recent[str, _Seen] = Recent(remembered)
        self._places: Recent[str, Place] = Recent(remembered)
        self._count = 0

    def assign(
        self, request: Request, *, parsed: ParsedRequest | None = None, answer: str | None = None
    ) -> Place:
        """The place of one request.

        Args:
            request: the next by arrival.
            parsed: its body, where that has been read already.
            answer: the text that came back, where it is known; it tells apart two conversations that
                began with the same words.
        """
        place = self._places.get(request.retry_of) if request.retry_of else None
        if place is None:
            if parsed is None:
                encoding = request.header("content-encoding")
                parsed = parse_request(request.method, request.path, request.body, encoding)
            place = self._first_attempt(request, parsed.messages, answer)
        self._places.keep(request.id, place)
        return place

    def _first_attempt(
        self, request: Request, messages: Sequence[Mapping[str, Any]], answer: str | None
    ) -> Place:
        texts = [rewritten(message, sort=True) for message in messages]
        chain, last_hash = [], 0
        for text in texts:
            last_hash = hash((last_hash, text))
            chain.append(last_hash)
        given = {name: value for name, value in request.headers[::-1] if name in _NAMING}
        named = (value for header in SESSION_HEADERS if (value := given.get(header)))
        name = next(named, None) if given else None
        parent = self._parent(messages, texts, chain, request.client)
        if name is not None:
            last = self._named.get(name)
            if parent is None or last is None or parent.place.session != last.place.session:
                parent = last
        if parent is None:
            self._count += 1
            place = Place(f"s{self._count}", 0, None)
        else:
            parent.continued = True
            place = Place(parent.place.session, parent.place.turn + 1, parent.id)
        seen = _Seen(request.id, place, request.client, _digest(answer))
        if name is not None:
            self._named.keep(name, seen)
        if chain:
            ending = _ending(messages, texts, len(texts), request.client)
            for known, key in ((self._prefixes, chain[-1]), (self._endings, ending)):
                known.keep(key, (*known.get(key, ())[1 - RIVALS :], seen))
        return place

    def _parent(
        self,
        messages: Sequence[Mapping[str, Any]],
        texts: list[bytes],
        chain: list[int],
        client: str | None,
    ) -> _Seen | None:
        """The latest request that these messages quote, with an assistant's message behind it."""
        for length in range(len(chain) - 1, 0, -1):
            reply = messages[length]
            if reply.get("role") != "assistant":
                continue
            seen = self._prefixes.get(chain[length - 1])
            if seen := seen or self._endings.get(_ending(messages, texts, length, client)):
                quoted = _digest(_text(reply.get("content")))
                return max(reversed(seen), key=lambda earlier: _likeness(earlier, quoted, client))
        return None


def _likeness(seen: _Seen, quoted: int | None, client: str | None) -> tuple[bool, bool, bool]:
    """How well an earlier request fits: its answer is quoted, same caller, not yet continued."""
    return (
        seen.answer is not None and seen.answer == quoted,
        seen.client == client,
        not seen.continued,
    )


def _ending(
    messages: Sequence[Mapping[str, Any]], texts: list[bytes], length: int, client: str | None
) -> int:
    """A hash of the last of so many messages, with the answer that it replies to, if any; by caller."""
    replies = length > 1 and messages[length - 2].get("role") == "assistant"
    return hash((client, *texts[length - 1 - replies : length]))


def _text(content: object) -> str:
    """The words of a message: a text, or the texts of its parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def _digest(text: str | None) -> int | None:
    return hash(text.strip()) if text and text.strip() else None
