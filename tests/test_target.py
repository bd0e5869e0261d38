"""The target: what goes on the wire for a recorded request, and where."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange, Outcome, Response
from tbench.replay.cost import parse_prices
from tbench.replay.plan import Plan
from tbench.replay.provenance import scrubbed
from tbench.replay.sender import Call, Label, Origin
from tbench.replay.target import (
    KEYS,
    MOST_REMEMBERED,
    SENT_HEADERS,
    Target,
    checked_base_url,
    find_key,
    parse_fields,
    parse_headers,
    parse_models,
    printable,
    rebased,
)
from tests.recorded import chat_request

BODY = b'{ "model": "old", "messages": [], "stream": true, "max_tokens": 9 }'
KEY = "tgp_v1_0123456789abcdef"


def call(
    target: Target, body: bytes | None = BODY, cycle: int = 0, clone: int = 0, **recorded: Any
) -> Call:
    known: dict[str, Any] = {
        "id": "abc",
        "scheme": "https",
        "headers": (
            ("content-type", "application/json"),
            ("accept", "application/json"),
            ("accept-encoding", "gzip, deflate"),
            ("user-agent", "OpenAI/Python"),
            ("x-stainless-retry-count", "0"),
            ("cookie", "a=b"),
            ("x-sim-tokens", "3"),
        ),
    }
    request = chat_request(0, 0, body, **{**known, **recorded})
    plan = Plan(trace=[Exchange(request=request, response=None)], allow_unsafe=True)
    (planned,) = plan
    return target.call(replace(planned, index=4, cycle=cycle, clone=clone, offset=0.5))


def fields(sent: Call) -> httpx.Headers:
    lines = sent.head.removesuffix(b"\r\n\r\n").split(b"\r\n")[1:]
    return httpx.Headers([(name, value) for name, _, value in (x.partition(b": ") for x in lines)])


def label(sent: Call) -> Label:
    return Label.unpack(sent.label)


def test_the_body_is_byte_identical_without_changes() -> None:
    """Blanks, order and escapes stay as they were recorded."""
    sent = call(Target(base_url="http://t"))

    assert sent.body == BODY
    assert fields(sent)["content-length"] == str(len(BODY))
    assert label(sent) == Label(
        id="abc", endpoint="chat", model="old", stream=True, request_bytes=len(BODY), session=1
    )


def test_only_the_listed_headers_are_taken_over() -> None:
    """What the SDK said about itself stays behind; tbench says who it is."""
    headers = fields(call(Target(base_url="http://t", key=KEY)))

    assert set(headers) == {
        "host", "content-length", "content-type", "accept", "accept-encoding", "user-agent",
        "x-request-id", "authorization", "x-sim-tokens",
    }  # fmt: skip
    assert headers["user-agent"].startswith("tbench/")
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["accept-encoding"] == "gzip, deflate"


def test_request_ids_are_unique_per_exchange_and_round() -> None:
    """The id in the trace, and the round after the first."""
    target = Target(base_url="http://t")

    assert fields(call(target))["x-request-id"] == "abc"
    assert fields(call(target, cycle=2))["x-request-id"] == "abc.2"
    assert fields(call(target, id="ü x"))["x-request-id"] == "__x"
    assert fields(call(target, id="٣"))["x-request-id"] == "_"


def test_given_headers_replace_ours() -> None:
    """A credential or an id by hand takes the place of the one from the environment or the trace."""
    given = parse_headers(["Authorization: Basic xyz", "X-Request-Id: mine", "Accept: */*"])
    headers = fields(call(Target(base_url="http://t", key=KEY, headers=given)))

    assert headers.get_list("authorization") == ["Basic xyz"]
    assert headers.get_list("x-request-id") == ["mine"]
    assert headers.get_list("accept") == ["*/*"]


@pytest.mark.parametrize(
    ("path", "recorded", "sent"),
    [
        ("/v1/chat/completions", None, {"authorization": f"Bearer {KEY}"}),
        ("/v1/chat/completions", "api-key", {"api-key": KEY}),
        ("/v1/messages", None, {"x-api-key": KEY}),
        ("/v1/messages", "x-api-key", {"x-api-key": KEY}),
        ("/v1/messages", "authorization", {"authorization": f"Bearer {KEY}"}),
        ("/v1/messages", ["host"], {"x-api-key": KEY}),
        ("/v1/responses", None, {"authorization": f"Bearer {KEY}"}),
    ],
)
def test_the_key_goes_where_the_recorded_one_was(
    path: str, recorded: object, sent: dict[str, str]
) -> None:
    """Where the trace does not say, as the API has it; a header by hand takes its place anywhere."""
    extra = {} if recorded is None else {"credential_header": recorded}
    headers = fields(call(Target(base_url="http://t", key=KEY), path=path, extra=extra))
    carried = {name: headers[name] for name in KEYS if name in headers}

    assert carried == sent
    by_hand = Target(base_url="http://t", key=KEY, headers=(("api-key", "mine"),))
    headers = fields(call(by_hand, path=path, extra=extra))
    assert {name: headers[name] for name in KEYS if name in headers} == {"api-key": "mine"}


def test_the_version_of_messages_goes_along() -> None:
    """Its API refuses a request without."""
    given = (
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "a,b"),
        ("x-stainless-os", "x"),
    )
    headers = fields(call(Target(base_url="http://t"), path="/v1/messages", headers=given))

    assert {name for name in headers if name.startswith(("anthropic", "x-st"))} == {
        "anthropic-version",
        "anthropic-beta",
    }


@pytest.mark.parametrize(
    ("recorded", "why"),
    [
        ({"headers": (("x-sim-a", "1\r\nhost: evil"),)}, "line break"),
        ({"headers": (("x-sim-a\nb", "1"),)}, "name"),
        ({"headers": (("x-sim-a", "\0"),)}, "zero byte"),
        ({"method": "GET / HTTP/1.1\r\nX: "}, "method"),
        ({"method": "P\u00d6ST"}, "ascii"),
        ({"body": b'{"model": ' + b"[" * 300 + b"]" * 300 + b"}"}, "[Rr]ecursion"),
    ],
)
def test_what_cannot_be_sent_is_a_call_that_says_why(recorded: dict[str, Any], why: str) -> None:
    """It becomes a failed sample, in its place, and the run goes on."""
    sent = call(Target(base_url="http://t", fields={"max_tokens": 1}), **recorded)

    assert sent.head == b""
    assert sent.refusal
    assert re.search(why, sent.refusal)
    assert (sent.index, label(sent).id) == (4, "abc")
    assert call(Target(base_url="http://t")).refusal is None


def as_read(raw: bytes) -> str:
    """A header's value as a trace has it: what is no UTF-8 is escaped."""
    return raw.decode("utf-8", "surrogateescape")


@given(
    method=st.sampled_from(["POST", "GET", "DELETE", "put", "HEAD"]),
    path=st.one_of(
        st.just("/v1/chat/completions"),
        st.text(max_size=20).map(lambda text: "/" + text),
        st.text(alphabet="%/?&=#:;@{}[] aZ9é\udcff", max_size=20).map(lambda text: "/v1/" + text),
    ),
    kept=st.lists(
        st.tuples(
            st.sampled_from(
                [*sorted(SENT_HEADERS), "x-sim-a", "x-sim-b", "cookie", "x-request-id"]
            ),
            st.one_of(
                st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n\0")),
                st.binary(max_size=30).map(lambda raw: raw.translate(None, b"\r\n\0")).map(as_read),
            ),
        ),
        max_size=4,
    ),
    body=st.one_of(st.binary(max_size=40), st.just(BODY), st.none()),
    given_headers=st.lists(st.sampled_from(["X-Request-Id: mine", "Authorization: b", "X-%d: %b"])),
    base=st.sampled_from(["http://t", "https://t:8443/v1", "http://[::1]:9", "http://t/a%20b"]),
    key=st.sampled_from([None, KEY]),
    ids=st.lists(st.text(max_size=200), min_size=1, max_size=3),
    cycle=st.integers(0, 3),
)
@settings(max_examples=300, deadline=None)
def test_a_call_is_what_httpx_would_have_sent(
    *,
    method: str,
    path: str,
    kept: list[tuple[str, str]],
    body: bytes | None,
    given_headers: list[str],
    base: str,
    key: str | None,
    ids: list[str],
    cycle: int,
) -> None:
    """Byte by byte, also for the second and third of a shape, with other ids and lengths."""
    by_hand = parse_headers(given_headers)
    target = Target(base_url=base, key=key, headers=by_hand)
    for place, id_ in enumerate(ids):
        content = body and body + b"x" * place**7
        sent = call(
            target, content, method=method, path=path, headers=tuple(kept), id=id_, cycle=cycle
        )
        plain = re.sub(r"[^!-~]", "_", id_)[:128]
        ours = [
            *((name, value) for name, value in kept if name not in {"cookie", "x-request-id"}),
            ("user-agent", f"tbench/{version('tbench')}"),
            ("x-request-id", f"{plain}.{cycle}" if cycle else plain),
            *([("authorization", f"Bearer {key}")] if key else []),
        ]
        ours = [pair for pair in ours if pair[0] not in dict(by_hand)] + list(by_hand)
        wanted = httpx.Request(
            method,
            rebased(base, printable(path)),
            headers=[(n.encode(), v.encode("utf-8", "surrogateescape")) for n, v in ours],
            content=content or b"",
        )
        assert sent.head + sent.body == on_the_wire(wanted)


def on_the_wire(request: httpx.Request) -> bytes:
    """HTTP/1.1 as RFC 9112 has it, for what httpx made."""
    lines = [request.method.encode() + b" " + request.url.raw_path + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in request.headers.raw]
    return b"\r\n".join(lines) + b"\r\n\r\n" + request.content


def test_templates_are_few() -> None:
    """A trace with a path of its own for each request does not fill the memory."""
    target = Target(base_url="http://t")
    for number in range(3 * MOST_REMEMBERED):
        call(target, path=f"/v1/{number}/completions")

    assert len(target._templates) <= MOST_REMEMBERED


def test_model_and_fields_are_replaced_and_null_removes() -> None:
    """The rest of the body keeps its order and its values."""
    target = Target(
        base_url="http://t", model="new", fields=parse_fields(["max_tokens=5", "stream=null"])
    )
    sent = call(target)

    assert orjson.loads(sent.body) == {"model": "new", "messages": [], "max_tokens": 5}
    assert (label(sent).model, label(sent).stream) == ("new", False)
    assert label(sent).request_bytes == len(sent.body)


def test_mapped_models_go_before_the_general_one() -> None:
    """--map-model names its models; --model takes all others."""
    target = Target(base_url="http://t", model="rest", models=parse_models(["old=new", "a=b=c"]))

    assert label(call(target)).model == "new"
    assert label(call(target, BODY.replace(b"old", b"else"))).model == "rest"
    assert target.models["a=b"] == "c"


def test_a_change_that_changes_nothing_keeps_the_bytes() -> None:
    """Asking for the recorded model again is not a reason to write the body anew."""
    assert call(Target(base_url="http://t", model="old")).body == BODY


@pytest.mark.parametrize(
    ("path", "recorded", "fields", "limits"),
    [
        ("completions", {"max_tokens": 9}, {"max_tokens": 64, "max_output_tokens": 65}, {"max_tokens": 64}),
        ("chat/completions", {"max_completion_tokens": 9}, {"max_tokens": 64}, {"max_tokens": 64}),
        ("messages", {"max_tokens": 9}, {"max_tokens": 64, "max_output_tokens": 65}, {"max_tokens": 64}),
        ("responses", {}, {"max_tokens": 64, "max_output_tokens": 65}, {"max_output_tokens": 65}),
        ("responses", {"max_output_tokens": 9}, {"max_tokens": 64}, {"max_output_tokens": 9}),
        ("responses", {"max_output_tokens": 9}, {"max_output_tokens": None}, {}),
        ("embeddings", {}, {"max_tokens": 64}, {"max_tokens": 64}),
    ],
)  # fmt: skip
def test_a_limit_goes_where_it_has_that_name(
    path: str, recorded: dict[str, int], fields: dict[str, int | None], limits: dict[str, int]
) -> None:
    """Alone, and counted where the API has none of the names; other endpoints take fields as they are."""
    body = {"model": "m", "messages": [], "input": "x"}
    target = Target(base_url="http://t", fields=fields)
    sent = orjson.loads(call(target, orjson.dumps({**body, **recorded}), path=f"/v1/{path}").body)

    assert sent == {**body, **limits}
    missed = path == "responses" and fields.keys() == {"max_tokens"}
    assert target.unchanged == ({"no_limit": 1} if missed else {})


def test_a_limit_has_the_name_of_the_dialect_that_is_asked() -> None:
    """A chat that goes out in Responses is a request of Responses."""
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":9}'
    fields = {"max_tokens": 64, "max_output_tokens": 65}
    sent = orjson.loads(call(Target(base_url="http://t", to="responses", fields=fields), body).body)

    assert (sent.get("max_tokens"), sent["max_output_tokens"]) == (None, 65)


def test_bodies_that_are_not_json_objects_pass_through() -> None:
    """Multipart, arrays and broken JSON are sent as they are."""
    for body in (b"--x\r\n", b"[1]", b'{"model"', b""):
        assert call(Target(base_url="http://t", model="new"), body).body == body


@pytest.mark.parametrize(
    ("base", "path", "wanted"),
    [
        ("http://h", "/v1/chat/completions", "http://h/v1/chat/completions"),
        ("http://h/v1", "/v1/chat/completions", "http://h/v1/chat/completions"),
        ("http://h/v1", "/v1/v1/chat/completions", "http://h/v1/chat/completions"),
        ("http://h", "/v1/v1/chat/completions", "http://h/v1/chat/completions"),
        ("http://h/v1", "/chat/completions", "http://h/v1/chat/completions"),
        ("http://h", "/chat/completions", "http://h/chat/completions"),
        ("http://h/gate", "/v1/embeddings", "http://h/gate/v1/embeddings"),
        ("http://h/gate/v1", "/v1/embeddings", "http://h/gate/v1/embeddings"),
        ("http://h/v1beta/openai", "/v1/embeddings", "http://h/v1beta/openai/embeddings"),
        ("http://h/v1/", "/v1/rerank", "http://h/v1/rerank"),
        ("http://h", "/v1/rerank?beta=true&key=***", "http://h/v1/rerank?beta=true"),
        ("http://h", "/v1/rerank?key=***", "http://h/v1/rerank"),
        ("http://h", "/v10/x", "http://h/v10/x"),
    ],
)
def test_paths_move_to_the_new_base(base: str, path: str, wanted: str) -> None:
    """With or without /v1 in either, it is there as often as the target wants it."""
    assert rebased(base, path) == wanted


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/v1/\udcff\udcfe/completions", b"/v1/%FF%FE/completions"),
        ("/v1/\u00e9/completions?limit=a b", b"/v1/%C3%A9/completions?limit=a%20b"),
        ("/v1/\x00\ud800/completions", b"/v1/%00%ED%A0%80/completions"),
        ("/v1/a%2Fb/completions?limit=%41", b"/v1/a%2Fb/completions?limit=%41"),
        ("//evil/v1/completions", b"//evil/v1/completions"),
    ],
)
def test_any_recorded_path_can_be_sent_and_stays_with_the_target(path: str, wanted: bytes) -> None:
    """Captured clients send bytes that no URL may hold."""
    sent = call(Target(base_url="http://t"), path=path)

    assert sent.origin == Origin("http", "t", 80)
    assert sent.head.startswith(b"POST %b HTTP/1.1\r\nHost: t\r\n" % wanted)


def test_a_recorded_header_that_is_no_ascii_is_sent_as_it_was() -> None:
    """HTTP lets any byte above 127 stand in a value."""
    sent = call(Target(base_url="http://t"), headers=(("accept", "\u00e9\udcff"),))

    assert b"\r\naccept: \xc3\xa9\xff\r\n" in sent.head


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h",
        "ftp://h",
        "http://",
        "http://u:p@h",
        "http://h?x=1",
        "http://h#f",
        "http://[",
        "http://h:x",
    ],
)
def test_bad_base_urls_are_one_line(text: str) -> None:
    """Refused before anything is read; a password in it is not repeated."""
    with pytest.raises(InputError, match="--base-url") as caught:
        checked_base_url(text)

    assert "u:p" not in str(caught.value)


def test_base_urls_lose_their_last_slash() -> None:
    """Paths are put behind them."""
    assert checked_base_url("https://h:8000/v1/") == "https://h:8000/v1"


@pytest.mark.parametrize(
    "line", ["x", ": v", "a b: v", "X: ü", "X: a\nb", "Host: h", "Content-Length: 3"]
)
def test_bad_headers_are_one_line(line: str) -> None:
    """Without repeating a value that may be secret."""
    with pytest.raises(InputError, match="--header"):
        parse_headers([line])


@pytest.mark.parametrize(
    ("parse", "words"),
    [
        (parse_fields, ["n=1", "n=2"]),
        (parse_models, ["m=a", "m=b"]),
        (parse_prices, ["m=1/2", "m=3/4"]),
    ],
)
def test_a_name_is_given_once(parse: Callable[[list[str]], object], words: list[str]) -> None:
    """The second would have hidden the first."""
    with pytest.raises(InputError, match=f"'{words[1]}': . is .* twice"):
        parse(words)


@pytest.mark.parametrize("word", ["x", "=1", "x=", "x=abc"])
def test_bad_fields_are_one_line(word: str) -> None:
    """JSON is asked for, with an example."""
    with pytest.raises(InputError, match="--set"):
        parse_fields([word])


@pytest.mark.parametrize("word", ["x", "=b", "a="])
def test_bad_model_maps_are_one_line(word: str) -> None:
    """OLD=NEW."""
    with pytest.raises(InputError, match="OLD=NEW"):
        parse_models([word])


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the named variable, else Together's; surrounding blanks are not part of it."""
    monkeypatch.setenv("TOGETHER_API_KEY", f" {KEY}\n")
    monkeypatch.setenv("OTHER", "second-key")

    assert find_key(None, "https://h", ()) == KEY
    assert find_key("OTHER", "https://h", ()) == "second-key"
    assert find_key("", "https://h", ()) is None


def test_a_missing_key_is_one_line_unless_none_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine needs none, nor does who brings a credential; a named variable must exist."""
    monkeypatch.delenv("TOGETHER_API_KEY", raising=False)
    monkeypatch.delenv("NAMED", raising=False)

    assert find_key(None, "http://127.0.0.1:80", ()) is None
    assert find_key(None, "http://localhost/v1", ()) is None
    assert find_key(None, "http://[::1]:80", ()) is None
    assert find_key(None, "https://h", (("api-key", "k"),)) is None
    with pytest.raises(InputError, match="TOGETHER_API_KEY is not set"):
        find_key(None, "https://h", (("x-other", "k"),))
    with pytest.raises(InputError, match="NAMED is not set"):
        find_key("NAMED", "http://127.0.0.1", ())


def test_no_secret_is_shown() -> None:
    """Neither in the target's repr nor in the arguments that a run keeps."""
    target = Target(base_url="http://t", key=KEY, headers=(("authorization", "Basic zzz"),))
    argv = [
        "replay",
        "t",
        "--header",
        "Authorization: Basic zzz",
        "--header=X: yyy",
        "--set",
        "a=1",
        "--set",
        'api_key="zzz"',
        '--set=user="sk-a1b2c3d4e5f6g7h8"',
        "--set=max_tokens=64",
    ]

    assert KEY not in repr(target)
    assert "zzz" not in repr(target)
    assert scrubbed(argv) == [
        "replay", "t", "--header", "Authorization: ***", "--header=X: ***", "--set", "a=1",
        "--set", "api_key=***", "--set=user=***", "--set=max_tokens=64",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: checked_base_url("ftp://joe:hunter22@h"),
        lambda: checked_base_url("joe:hunter22@h"),
        lambda: checked_base_url("http://joe:hunter22@h:port"),
        lambda: parse_headers(["hunter22"]),
        lambda: parse_headers(["Authorization Bearer hunter22: x"]),
        lambda: parse_fields(["api_key=hunter22"]),
        lambda: find_key("sk-hunter22hunter22", "http://h", ()),
    ],
)
def test_a_mistyped_option_is_not_quoted_with_its_secret(wrong: Callable[[], object]) -> None:
    """Error lines end up in the logs of build servers."""
    with pytest.raises(InputError) as told:
        wrong()

    assert "hunter22" not in str(told.value)


def test_secrets_are_the_key_and_the_values_of_given_headers() -> None:
    """Whatever the header is called."""
    target = Target(base_url="http://t", key=KEY, headers=(("x-team", "hush-hush-9876"),))

    masked = target.secrets.mask_text(f"Bearer {KEY} of hush-hush-9876")

    assert masked == f"Bearer {'*' * len(KEY)} of {'*' * 14}"


def test_vision_bodies_survive_a_change_of_model() -> None:
    """Big nested content is kept value for value."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = json.dumps({"model": "old", "messages": [{"role": "user", "content": [image]}]}).encode()
    sent = orjson.loads(call(Target(base_url="http://t", model="new"), body).body)

    assert sent["messages"][0]["content"] == [image]


def answered(path: str, body: dict[str, Any], usage: dict[str, int] | None) -> Exchange:
    """A request with the answer that it got, whose server counted its tokens or did not."""
    raw, answer = orjson.dumps(body), orjson.dumps({"choices": [], "usage": usage})
    request = chat_request(0, 0, raw, path=path, headers=())
    response = Response(
        head_ns=1, end_ns=2, status=200, body=answer, body_bytes=len(answer), outcome=Outcome.OK
    )  # fmt: skip
    return Exchange(request=request, response=response)


CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
MESSAGES, RESPONSES = CHAT | {"max_tokens": 900}, {"model": "m", "input": "Hi"}
COUNTED = {"prompt_tokens": 9, "completion_tokens": 70}
LIMITED = [
    ("/v1/chat/completions", CHAT, {"max_tokens": 70}),
    ("/v1/chat/completions", CHAT | {"max_completion_tokens": 5}, {"max_completion_tokens": 70}),
    ("/v1/chat/completions", CHAT | {"n": 2}, {"max_tokens": 35}),
    ("/v1/responses", RESPONSES, {"max_output_tokens": 70}),
    ("/v1/messages", MESSAGES, {"max_tokens": 70}),
    ("/v1/embeddings", RESPONSES, {}),
]


@pytest.mark.parametrize(("path", "body", "limit"), LIMITED)
def test_answers_are_limited_to_their_recorded_length(
    path: str, body: dict[str, Any], limit: dict[str, int]
) -> None:
    """Under the name that the endpoint has for it; exactly so where the server takes what that needs."""
    (planned,) = Plan(trace=[answered(path, body, COUNTED)])
    cap, exact = (
        orjson.loads(Target(base_url="http://h", lengths=how).call(planned).body)
        for how in ("cap", "exact")
    )
    length = next(iter(limit.values()), None)

    assert cap == body | limit
    assert exact == cap | ({"min_tokens": length, "ignore_eos": True} if length else {})


@pytest.mark.parametrize(
    ("body", "usage", "reason"),
    [
        (CHAT, None, "no_length"),
        (MESSAGES | {"thinking": {"type": "enabled", "budget_tokens": 80}}, COUNTED, "thinking"),
    ],
)
def test_a_length_that_cannot_be_matched_is_counted(
    body: dict[str, Any], usage: dict[str, int] | None, reason: str
) -> None:
    """And its limit stays as recorded: a budget for thinking must lie below it, or the request is refused."""
    (planned,) = Plan(trace=[answered("/v1/messages", body, usage)])
    target = Target(base_url="http://h", lengths="cap")

    assert orjson.loads(target.call(planned).body) == body
    assert target.unchanged == {reason: 1}
