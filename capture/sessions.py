"""Which requests belong to one conversation, and which answers a request waits for.

A request continues an earlier one when all of that one's messages, followed by an assistant's message, begin
its own. Clients that cut old messages off, or write them anew, keep the last ones: so it also continues one
of the same caller whose last words, and the answer that they replied to, stand before an assistant's message
in it, however these are spaced, spelled as JSON, or without what was thought; one whose answer stands in it
as an assistant's message, whatever became of the words before; or the one whose answer called the tools that
it brings results of.

An agent's tools may be agents. A request whose first words are an argument of a tool that an open
conversation has called belongs to that one (fan-out), and the request that brings the tool's result holds the
last answers of what the call began (fan-in); so does one that quotes an answer. Only the answers of
requests with tools are read for this; others wait, the last UNREAD, until an assistant's message has no
other origin, or several. Hashes are Python's own, of this process: they live in memory only.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from tbench.capture.exchange import Request, Response
from tbench.capture.jsontext import rewritten
from tbench.capture.providers import ParsedRequest, parse_request
from tbench.capture.providers.provider import items_of, word_of
from tbench.capture.spoken import Spoken, ToolCall, calls_in, results_in, spoken, texts_in


class Recent[Key, Value](dict[Key, Value]):
    """What was kept last, `size` of it and at most a hundredth more; an OrderedDict takes half as much again.

    A dict passes what was taken out of it to find its oldest: so many go at a time.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self._at_a_time = 1 + size // 100
        self._most = size + self._at_a_time - 1

    def keep(self, key: Key, value: Value) -> None:
        """Keep a value as the latest; those that were kept longest ago go where there are too many."""
        if key in self:
            del self[key]
        elif len(self) >= self._most:
            for oldest in [*islice(self, self._at_a_time)]:
                del self[oldest]
        self[key] = value


SESSION_HEADERS = (
    "x-session-id",
    "x-conversation-id",
    "x-thread-id",
    "x-chat-id",
    "session-id",
    "session_id",
    "conversation-id",
    "conversation_id",
    "x-claude-code-session-id",
    "helicone-session-id",
    "x-session-affinity",
)
"""Headers that name a conversation; the first that is there wins. A pseudonym serves as well."""

_NAMING = frozenset(SESSION_HEADERS)
REMEMBERED = 100_000
RIVALS = 16
OPEN = 256
"""So many calls of tools, and so many answers, are looked at that a request may come of or quote."""
TELLING = 8
"""Characters from which on an argument that is a request's words says where that came from."""
QUOTED = 24
"""Characters from which on a text within another is a quotation, and an answer tells who was given it."""
UNREAD = 2**14
"""So many answers wait to be read."""
IN_VAIN = 1_000
"""After so many requests in a row that hold none of these (prompts with examples) no more are read."""


Answer = Callable[[], Response | None]
"""Reads what came back, with its body; None where that is lost."""


class Place(NamedTuple):
    """Where a request stands: its session, its turn (0 first), the exchange whose answer it continues.

    `joined` are others whose answers it holds. A retry has the place of the attempt that it repeats. Sessions
    are numbered from 1 on, as they begin.
    """

    session: str
    turn: int
    parent: str | None
    joined: tuple[str, ...] = ()

    @property
    def holds(self) -> tuple[str, ...]:
        """The exchanges whose answers it contains."""
        return self.joined if self.parent is None else (self.parent, *self.joined)

    @property
    def number(self) -> int:
        """The session's."""
        return int(self.session[1:])


@dataclass(slots=True, eq=False)
class _Seen:
    """A request that later ones may continue; equal to itself alone.

    `call` is the tool's call that began its part of the conversation: who made it, and the call's id.
    `end_ns` is None where it is not known, `words` (of its answer, by `_last_words`) where that was not read.
    """

    id: str
    place: Place
    client: str | None
    call: tuple[str, str] | None = None
    words: int | None = None
    end_ns: int | None = None
    continued: bool = False

    def ended(self, at_ns: int) -> bool:
        return self.end_ns is None or self.end_ns <= at_ns


@dataclass(slots=True)
class _OpenCall:
    """A call of a tool whose result has not come back; `words` are the texts among its arguments."""

    caller: _Seen
    id: str
    words: Sequence[str]
    began: bool = False


class Sessions:
    """Sorts requests into sessions as they arrive. Feed it in arrival order.

    `exact` says that the last one quoted all that the one before it had sent, as it was.
    Time per request grows with its own messages only, memory with `remembered` requests at most: a
    conversation whose last turn is older than that many requests starts anew.
    """

    def __init__(self, *, remembered: int = REMEMBERED) -> None:
        self._prefixes: Recent[int, tuple[_Seen, ...]] = Recent(remembered)
        self._endings: Recent[int, tuple[_Seen, ...]] = Recent(remembered)
        self._named: Recent[str, list[_Seen]] = Recent(remembered)
        self._requests: Recent[str, _Seen] = Recent(remembered)
        self._callers: Recent[str, list[_Seen]] = Recent(remembered)
        self._begun: Recent[tuple[str, str], list[_Seen]] = Recent(remembered)
        self._open: deque[_OpenCall] = deque(maxlen=OPEN)
        self._quotable: deque[tuple[_Seen, str]] = deque(maxlen=OPEN)
        self._answered: Recent[int, tuple[_Seen, ...]] = Recent(remembered)
        self._unread: deque[tuple[_Seen, Answer]] = deque(maxlen=UNREAD)
        self._vain = 0
        self._count = 0
        self.exact = False

    def assign(
        self,
        request: Request,
        *,
        parsed: ParsedRequest | None = None,
        response: Response | None = None,
        answer: Answer | None = None,
    ) -> Place:
        """The place of one request.

        Args:
            request: the next by arrival.
            parsed: its body, where that has been read already.
            response: what came back, with its body where `begets` says so.
            answer: reads that with its body, which is done where it is in question whose answer a later
                request holds; unless given, `response` has it.
        """
        seen = self._requests.get(request.retry_of) if request.retry_of else None
        messages: Sequence[Mapping[str, Any]] = ()
        if seen is None:
            if parsed is None:
                encoding = request.header("content-encoding")
                parsed = parse_request(request.method, request.path, request.body, encoding)
            messages = parsed.messages
            seen = self._first_attempt(request, parsed, messages)
        self._requests.keep(request.id, seen)
        if response is not None:
            seen.end_ns = response.end_ns
            # What has no body says nothing.
            if response.body and begets(request):
                self._listen(seen, response, "\n".join(_texts(messages)))
            elif messages and self._vain < IN_VAIN:
                self._unread.append((seen, answer or (lambda: response)))
        return seen.place

    def _first_attempt(
        self,
        request: Request,
        parsed: ParsedRequest,
        messages: Sequence[Mapping[str, Any]],
    ) -> _Seen:
        chain = _chain(messages)
        name, payload = _name(request, parsed), parsed.payload or {}
        arrive_ns, client = request.arrive_ns, request.client
        # Where no tool is in play, and nothing quotable was said, nobody looks for more than the parent.
        agents = bool(self._callers or self._quotable)
        news: Sequence[Mapping[str, Any]] = ()
        if agents:  # what stands behind the assistant's last message
            answers = (at for at, m in enumerate(messages, 1) if m.get("role") == "assistant")
            news = messages[max(answers, default=0) :]
        results = [id_ for message in news for id_ in results_in(message)]

        caller, sole = self._caller(results, client) if results else (None, False)
        parent, exact = self._parent(messages, chain, arrive_ns, client, caller if sole else None)
        if not exact:
            previous = self._named.get(word_of(payload, "previous_response_id"), ())
            parent = next(iter(previous), None) or caller or parent
        call = parent.call if parent else None
        quoted = parent if exact else None
        if parent is not None:
            parent.continued = True
        elif opener := self._opener(messages, arrive_ns, client) if self._open else None:
            parent, call, opener.began = opener.caller, (opener.caller.id, opener.id), True
        if name is not None:
            parent, call = self._in_name(name, parent, call, arrive_ns)

        self.exact = quoted is not None and quoted is parent
        # An agent that takes over may have all that was said in one message.
        if parent is None and agents:
            news = messages
        joined = self._joined(parent, results, _texts(news), arrive_ns, client) if news else ()
        if parent is None:
            self._count += 1
            place = Place(f"s{self._count}", 0, None, joined)
        else:
            place = Place(parent.place.session, parent.place.turn + 1, parent.id, joined)
        seen = _Seen(request.id, place, client, call)
        if name is not None:
            self._named.keep(name, [*self._named.get(name, [])[1 - RIVALS :], seen])
        if call is not None:
            leaves = [other for other in self._begun.get(call, ()) if not other.continued]
            self._begun.keep(call, [*leaves, seen])
        if chain:
            ending = _ending(messages, len(messages), client)
            alone = (seen,)  # nearly all are, in both
            for known, key in ((self._prefixes, chain[-1]), (self._endings, ending)):
                rivals = known.get(key)
                known.keep(key, (*rivals[1 - RIVALS :], seen) if rivals else alone)
        return seen

    def _in_name(
        self, name: str, parent: _Seen | None, call: tuple[str, str] | None, arrive_ns: int
    ) -> tuple[_Seen | None, tuple[str, str] | None]:
        """The parent of a request, and the call that began its part, where it names its conversation.

        A name outranks what messages suggest, but for a new name of what an open call has begun.
        """
        namesakes = self._named.get(name, [])
        last = next((seen for seen in reversed(namesakes) if seen.ended(arrive_ns)), None)
        last = last or next(iter(namesakes), None)
        if last is not None:
            if parent is None or parent.place.session != last.place.session:
                return last, last.call
        elif parent is None or call is None or call[0] != parent.id:
            return None, None
        return parent, call

    def _parent(
        self,
        messages: Sequence[Mapping[str, Any]],
        chain: list[int],
        arrive_ns: int,
        client: str | None,
        caller: _Seen | None,
    ) -> tuple[_Seen | None, bool]:
        """The latest request that these messages quote, with an assistant's message behind it.

        And whether they quote all of it. Of several that they quote so it is the sole `caller` of the tools.
        """
        newest = True
        # From the longest history down: whoever quotes turn five quotes turns one to four as well.
        for length in range(len(chain) - 1, 0, -1):
            reply = messages[length]
            if reply.get("role") != "assistant":
                continue
            exact = self._prefixes.get(chain[length - 1], ())
            if caller in exact:
                return caller, True
            seen = exact or self._endings.get(_ending(messages, length, client), ())
            if len(seen) == 1 and seen[0].words is None:  # nearly always
                return seen[0], bool(exact)
            words, telling = _last_words(reply)
            if len(seen) == 1 and seen[0].words == words:
                return seen[0], bool(exact)
            self._read()
            # Further back stand greetings, which many are told.
            author = self._author(words, arrive_ns, client) if telling and newest else None
            newest = False
            # The same words may be said to others: they outrank no history that is quoted as it was.
            if author and (not exact or author in exact):
                self._vain = 0
                return author, author in exact
            if seen:
                # Reversed, as `max` gives the first of equals: the latest is the likeliest.
                best = max(reversed(seen), key=lambda each: _likeness(each, words, client))
                return best, bool(exact)
        self._vain += any(message.get("role") == "assistant" for message in messages)
        return None, False

    def _author(self, words: int, arrive_ns: int, client: str | None) -> _Seen | None:
        """The one request of this caller that was answered so, or the one of these that nobody continued."""
        given = [
            seen
            for seen in self._answered.get(words, ())
            if seen.client == client and seen.ended(arrive_ns)
        ]
        if len(given) > 1:
            given = [seen for seen in given if not seen.continued]
        return given[0] if len(given) == 1 else None

    def _caller(self, results: Sequence[str], client: str | None) -> tuple[_Seen | None, bool]:
        """The request whose answer called the tools that gave these results, and whether no other did."""
        callers = [seen for id_ in results for seen in self._callers.get(id_, ())]
        best = max(reversed(callers), key=lambda seen: _likeness(seen, None, client), default=None)
        return best, bool(callers) and all(seen is best for seen in callers)

    def _opener(
        self, messages: Sequence[Mapping[str, Any]], arrive_ns: int, client: str | None
    ) -> _OpenCall | None:
        """The open call of which an argument is a message, or in one."""
        given = [text.strip() for text in _texts(messages)]
        words, best = set(given), None
        for call in self._open:
            same = not words.isdisjoint(call.words)
            if call.caller.ended(arrive_ns) and (
                same
                or any(
                    len(word) >= QUOTED and word in text for word in call.words for text in given
                )
            ):
                rank = (same, call.caller.client == client, not call.began)
                if best is None or rank >= best[0]:  # of equals the latest
                    best = rank, call
        return best and best[1]

    def _joined(
        self,
        parent: _Seen | None,
        results: Sequence[str],
        news: Sequence[str],
        arrive_ns: int,
        client: str | None,
    ) -> tuple[str, ...]:
        """Whose answers a request holds beside its parent's.

        The last ones of what a call began whose result it brings, and those that it quotes.
        """
        held: list[_Seen] = []
        if results:
            caller, _ = self._caller(results, client)
            for id_ in results:
                held += self._begun.get((caller.id if caller else "", id_), ())
            brought = set(results)
            rest = [
                call for call in self._open if call.caller is not caller or call.id not in brought
            ]
            self._open = deque(rest, maxlen=OPEN)
        held = [seen for seen in held if not seen.continued and seen.ended(arrive_ns)]
        for seen in held:
            seen.continued = True
        held += self._quoted("\n".join(news), arrive_ns, client) if news and self._quotable else ()
        return tuple(seen.id for seen in held if seen is not parent)

    def _quoted(self, news: str, arrive_ns: int, client: str | None) -> Iterator[_Seen]:
        """The latest requests, which nobody has continued yet, whose answers are in these words."""
        quotes: dict[str, int] = {}
        for seen, text in reversed(self._quotable):
            if seen.continued or seen.client != client or not seen.ended(arrive_ns):
                continue
            if text not in quotes:  # as such, or within a text that is JSON
                forms = {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
                quotes[text] = max(map(news.count, forms))
            if quotes[text]:
                quotes[text] -= 1
                seen.continued = True
                yield seen

    def _listen(self, seen: _Seen, response: Response, prompt: str) -> None:
        """Take note of an answer's id, of the tools that it calls, and of its words."""
        utterance = self._hear(seen, response)
        if utterance is None:
            return
        if utterance.id:
            self._named.keep(utterance.id, [seen])
        for call in utterance.calls:
            self._callers.keep(call.id, [*self._callers.get(call.id, [])[1 - RIVALS :], seen])
            # What the prompt holds already others may say as well.
            words = [word for word in _words(call) if word not in prompt]
            self._open.append(_OpenCall(seen, call.id, words))
        if len(text := utterance.text.strip()) >= QUOTED:
            self._quotable.append((seen, text))

    def _read(self) -> None:
        """Read the answers that wait for it."""
        while self._unread:
            seen, answer = self._unread.popleft()
            if response := answer():
                self._hear(seen, response)

    def _hear(self, seen: _Seen, response: Response) -> Spoken | None:
        """What an answer says, of which note is taken."""
        if not response.body or (response.status or 0) >= 300:
            return None
        utterance = spoken(response.body or b"", response.header("content-encoding") or "")
        for message in utterance.messages[-1:] if utterance else ():
            seen.words, telling = _last_words(message)
            if telling:
                others = self._answered.get(seen.words, ())
                self._answered.keep(seen.words, (*others[1 - RIVALS :], seen))
        return utterance


def begets(request: Request) -> bool:
    """Whether a request's answer may begin other requests: it may call tools, or be continued by its id.

    Only such answers are read.
    """
    body = request.body
    if not body:
        return False
    # From the end, which takes half as long.
    tools = body.rfind(b'"tools"') >= 0
    encoded = request.header("content-encoding") is not None
    return tools or encoded or "/responses" in request.path


def _name(request: Request, parsed: ParsedRequest) -> str | None:
    """What a request calls its conversation, if it does."""
    given = request.fields
    if not _NAMING.isdisjoint(given):
        for header in SESSION_HEADERS:
            if value := given.get(header):
                return value
    conversation = (parsed.payload or {}).get("conversation")  # of Responses
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    return conversation if isinstance(conversation, str) and conversation else None


def _texts(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    return [text for message in messages for text in texts_in(message.get("content"))]


def _words(call: ToolCall) -> list[str]:
    """The texts among a call's arguments that are long enough to tell what came of them."""
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = call.arguments
    unread, words = [arguments], []
    while unread:
        match unread.pop():
            case dict() as members:
                unread += members.values()
            case list() as items:
                unread += items
            case str() as text if len(text.strip()) >= TELLING:
                words.append(text.strip())
    return words


def _likeness(seen: _Seen, words: int | None, client: str | None) -> tuple[bool, bool, bool]:
    """How well an earlier request fits: it was answered so, same caller, not yet continued."""
    return (
        seen.words is not None and seen.words == words,
        seen.client == client,
        not seen.continued,
    )


def _chain(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """A hash of the messages up to each: equal where two requests begin alike."""
    # Chained, so that a request of n messages costs n hashes and not n prefixes.
    last, chain = 0, list[int]()
    for message in messages:
        try:
            if len(message) == 2:  # as nearly all
                last = hash((last, message["role"], message["content"]))
                chain.append(last)
                continue
        except (KeyError, TypeError):  # TypeError: content in parts
            pass
        last = hash((last, rewritten(message, sort=True)))
        chain.append(last)
    return chain


def _ending(messages: Sequence[Mapping[str, Any]], length: int, client: str | None) -> int:
    """A hash of the last of so many messages, with the answer that it replies to, if any; by caller."""
    replies = length > 1 and messages[length - 2].get("role") == "assistant"
    return hash((client, *map(_sense, messages[length - 1 - replies : length])))


THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning"})
_BREAKS = bytes(code for code in range(128) if chr(code).isspace())


def _sense(message: Mapping[str, Any]) -> tuple[object, ...]:
    """What stays of a message where its client writes its history anew; all of one without words."""
    role, content = message.get("role"), message.get("content")
    if (
        len(message) == 2
        and type(role) is str
        and type(content) is str
        and (bare := _bare(content))
    ):
        return role, bare  # as nearly all
    return word_of(message, "role"), *(_gist(message) or (rewritten(message, sort=True),))


def _last_words(message: Mapping[str, Any]) -> tuple[int, bool]:
    """A hash of the assistant's last words in a message, and whether others are unlikely to hear the same.

    The last ones alone: what it called, or had said before, a client may have left out or put together.
    """
    last = ("", *_gist(message))[-1]
    return hash(last), len(last) >= QUOTED


def _gist(message: Mapping[str, Any]) -> tuple[str | bytes, ...]:
    """A message's texts without breaks, JSON among them as values, and the ids of its calls and results."""
    content = message.get("content")
    if isinstance(content, list):
        content = [part for part in items_of(content) if word_of(part, "type") not in THOUGHTS]
        message = {**message, "content": content}
    calls = (call.id for call in calls_in(message))
    return (*calls, *results_in(message), *filter(None, map(_bare, texts_in(content))))


def _bare(text: str) -> bytes:
    """A text without its breaks; of JSON the value, written one way."""
    if text.lstrip()[:1] in {"{", "["}:
        with suppress(ValueError, RecursionError):
            return rewritten(json.loads(text), sort=True)
    return text.encode("utf-8", "surrogatepass").translate(
        None, _BREAKS
    )  # a tenth of `split` and `join`
