"""Redaction: what passes by allowlist, what is masked in place, what becomes a pseudonym."""

import json
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tbench.capture.redact import (
    Redactor,
    Secrets,
    mask_address,
    mask_hints,
    mask_lookalikes,
    safe_path,
    secrets_of,
    without_credentials,
)

KEY = "sk-live-51Hx/9+Zq=="
NOBODY = Secrets()


def test_headers_pass_by_allowlist_and_the_rest_is_counted() -> None:
    """Unknown fields are withheld whatever they are called, names come out in lower case."""
    fields = [
        ("Authorization", f"Bearer {KEY}"),
        ("X-Api-Key", KEY),
        ("Cookie", "sid=1234567890"),
        ("X-Together-Client-User-Agent", '{"uname": "joe-laptop"}'),
        ("X-Something-New", "value"),
        ("Content-Type", "application/json"),
        ("X-RateLimit-Remaining-Tokens", "17"),
        ("x-stainless-retry-count", "1"),
    ]

    kept, withheld = Redactor().headers(fields, NOBODY)

    assert kept == (
        ("content-type", "application/json"),
        ("x-ratelimit-remaining-tokens", "17"),
        ("x-stainless-retry-count", "1"),
    )
    assert withheld == 5


def test_a_response_cookie_and_a_location_are_withheld() -> None:
    """Both may carry a credential in any shape."""
    fields = [("set-cookie", "a=b"), ("location", "https://x/?sig=abc"), ("cf-ray", "8c1")]

    assert Redactor().headers(fields, NOBODY) == ((("cf-ray", "8c1"),), 2)


def test_a_kept_header_that_echoes_the_key_is_masked() -> None:
    """An allowlisted name does not vouch for its value."""
    secrets = secrets_of([("authorization", f"Bearer {KEY}")])

    kept, _ = Redactor().headers([("x-request-id", f"req-{KEY}")], secrets)

    assert kept == (("x-request-id", "req-" + "*" * len(KEY)),)


def test_session_headers_become_pseudonyms_that_are_equal_within_one_capture_only() -> None:
    """The same session is recognisable in one trace and unlinkable between two."""
    one, other = Redactor(), Redactor()
    fields = [("X-Session-Id", "joe-42")]

    first = one.headers(fields, NOBODY)[0][0][1]

    assert first == one.headers(fields, NOBODY)[0][0][1]
    assert first != other.headers(fields, NOBODY)[0][0][1]
    assert "joe" not in first


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/x?api-version=2024-10-21", "/v1/x?api-version=2024-10-21"),
        ("/v1/x?api_key=sk-12345678&limit=3", "/v1/x?api_key=***&limit=3"),
        ("/v1/x?sig=abc&sv=1", "/v1/x?sig=***&sv=***"),
        ("/v1/x?sk-barekey123456", "/v1/x?***"),
        ("/v1/x?sk-1234567890123456789012345678901234567890=1", "/v1/x?***"),
        ("/v1/x?", "/v1/x?"),
        ("/v1/x?limit=1;key=sk-12345678&after=b", "/v1/x?limit=1;key=***&after=b"),
        ("/v1/x?limit=1&&", "/v1/x?limit=1&&"),
        ("/v1/x#key=sk-12345678", "/v1/x#***"),
        ("//joe:hunter22@host/v1/x", "//***@host/v1/x"),
        ("/sk-proj-a1b2c3d4e5f6g7h8/v1/x", "/***/v1/x"),
        ("/hf-inference/models/meta-llama/Llama-3.3-70B-Instruct", None),
        ("/openai/deployments/gpt-4o-2024-08-06/chat/completions", None),
        ("/ai/run/@cf/meta/llama-3.1-8b-instruct-fast", None),
    ],
)
def test_query_values_pass_by_allowlist(path: str, expected: str | None) -> None:
    """Names stay readable; values of names that are not on the list do not, nor what looks like a key."""
    assert safe_path(path, NOBODY) == (path if expected is None else expected)


def test_a_key_in_an_allowed_query_value_is_masked() -> None:
    """An allowlisted name does not vouch for its value here either."""
    secrets = secrets_of([("authorization", "Bearer tgp-1234567890")])

    assert safe_path("/v1/x?model=tgp-1234567890", secrets) == f"/v1/x?model={'*' * 14}"


def test_a_key_in_the_user_agent_is_masked() -> None:
    """The one kept field of a request that holds free text."""
    fields = [("user-agent", "app/1.2 (api_key=sk-a1b2c3d4e5f6g7h8)")]

    assert Redactor().headers(fields, NOBODY)[0] == (("user-agent", "app/1.2 (api_key=***"),)


def test_a_key_in_the_path_is_masked() -> None:
    """Some gateways take the key as a segment; it is known from the header."""
    secrets = secrets_of([("x-api-key", "tgp-1234567890")])

    assert safe_path("/proxy/tgp-1234567890/v1/models", secrets) == f"/proxy/{'*' * 14}/v1/models"


@pytest.mark.parametrize(
    "spelling",
    [
        KEY,
        json.dumps(KEY)[1:-1],
        KEY.replace("/", "\\/"),
        quote(KEY, safe=""),
        KEY.replace("/", "\\u002f").replace("+", "\\u002b").replace("=", "\\u003d"),
    ],
)
def test_an_echoed_key_is_masked_in_every_common_spelling(spelling: str) -> None:
    """A server may escape what it quotes."""
    secrets = secrets_of([("Authorization", f"Bearer {KEY}")])
    body = f'{{"error":{{"message":"Incorrect API key provided: {spelling}."}}}}'.encode()

    masked = secrets.mask(body)

    assert spelling.encode() not in masked
    assert len(masked) == len(body)
    assert json.loads(masked)


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("authorization", "Basic dXNlcjpodW50ZXIyMjI=", "dXNlcjpodW50ZXIyMjI="),
        ("authorization", "Basic dXNlcjpodW50ZXIyMjI=", "hunter222"),
        ("proxy-authorization", "Bearer abcdefgh1", "abcdefgh1"),
        ("authorization", "OurOwnScheme abcdefgh1", "abcdefgh1"),
        ("x-corporate", "sk-a1b2c3d4e5f6g7h8", "sk-a1b2c3d4e5f6g7h8"),
        ("api-key", "azure-key-123", "azure-key-123"),
        ("x-my-auth-token", "tok-123456", "tok-123456"),
        ("cookie", "theme=dark; sid=s3cr3t-cookie-value", "s3cr3t-cookie-value"),
        ("ocp-apim-subscription-key", "sub-123456789", "sub-123456789"),
    ],
)
def test_credentials_are_known_by_the_field_that_carries_them(
    name: str, value: str, secret: str
) -> None:
    """Whatever a request authenticates with is masked wherever it reappears."""
    assert (
        secrets_of([(name, value)]).mask(f"x {secret} y".encode())
        == b"x " + b"*" * len(secret) + b" y"
    )


def test_a_key_in_the_query_is_known_decoded_too() -> None:
    """The server sees and echoes the decoded value."""
    secrets = secrets_of([], "/v1/models?key=a%2Fb%2Fc-12345")

    assert secrets.mask(b"bad key a/b/c-12345") == b"bad key " + b"*" * 11


def test_an_unknown_field_that_names_a_model_masks_nothing() -> None:
    """Gateways route by headers of their own; their values stand in every body."""
    fields = [("x-route-model", "meta-llama/Llama-3.3-70B-Instruct-Turbo"), ("x-tier", "standard")]

    assert secrets_of(fields) == NOBODY


@pytest.mark.parametrize("word", ["EMPTY", "none", "test", ""])
def test_placeholder_keys_do_not_garble_prompts(word: str) -> None:
    """Local servers are called with words that also stand in prompts."""
    body = f"is {word} a key?".encode()

    assert secrets_of([("authorization", f"Bearer {word}")]).mask(body) == body


@given(
    key=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=60),
    before=st.binary(max_size=40),
    after=st.binary(max_size=40),
)
def test_no_key_survives_and_no_offset_moves(key: str, before: bytes, after: bytes) -> None:
    """Masking keeps the length and leaves no occurrence, whatever surrounds it."""
    secrets = Secrets.of([key])
    body = before + key.encode() + after + key.encode()

    masked = secrets.mask(body)

    assert len(masked) == len(body)
    assert key.encode() not in masked or set(key) == {"*"}


@pytest.mark.parametrize("kept", range(1, 14))
def test_an_excerpt_that_ends_within_a_key_ends_before_it(kept: int) -> None:
    """Half a key is half a secret."""
    secrets = Secrets.of(["tgp-1234567890"])

    said = secrets.mask_excerpt(f"bad key {'tgp-1234567890'[:kept]}…")

    assert said == f"bad key {'*' * kept}…"
    assert secrets.mask_excerpt("a whole text, tgp") == "a whole text, tgp"


@pytest.mark.parametrize("odd", ["\ud800", "\udcff", "\x00", "\U0010ffff"])
def test_any_text_can_be_masked(odd: str) -> None:
    """Half characters come out of JSON, undecodable bytes out of headers."""
    masked = Secrets.of(["tgp-1234567890"]).mask_text(f"{odd} tgp-1234567890")

    assert masked.endswith(" " + "*" * 14)


@pytest.mark.parametrize("text", ["ftp://joe:pw/x@h/", "joe:pw/x@h", "http:joe:pw/x@h"])
def test_an_address_is_shown_without_its_user(text: str) -> None:
    """What is no URL may hold a password all the same."""
    assert "pw/x" not in mask_address(text)
    assert mask_address(text).endswith(("@h", "@h/"))


def test_half_masked_keys_are_masked_whole() -> None:
    """OpenAI quotes the first and last characters of a wrong key: those are bytes of a key."""
    body = b'{"message":"Incorrect API key provided: sk-ab12****************wxyz. Find ..."}'

    masked = mask_hints(body)

    assert b"sk-ab12" not in masked
    assert b"wxyz" not in masked
    assert len(masked) == len(body)


@pytest.mark.parametrize(
    "text",
    [
        "GET https://joe:hunter22222@host/v1 failed",
        "Bearer abcdefghijklmnop was refused",
        "url: http://x/v1?key=abcdefghijklmnop",
        "Incorrect API key provided: sk-abcdefghijklmnop",
    ],
)
def test_texts_for_people_hold_nothing_that_looks_like_a_credential(text: str) -> None:
    """Warnings and error texts may quote requests of which nothing else is known."""
    said = mask_lookalikes(text)

    assert "abcdefghijklmnop" not in said
    assert "hunter22222" not in said


def test_identities_become_pseudonyms_in_place() -> None:
    """Only the values change: white space, order and every other byte stay."""
    body = (
        b'{ "model":"m",\n "user" : "joe@example.com", "safety_identifier":12345, '
        b'"messages":[{"role":"user","content":"\\"user\\": \\"joe\\" "}],'
        b'"metadata":{"user_id":"u-77", "note":"kept"}}'
    )
    redactor = Redactor()

    out = redactor.identities(body)

    before, after = json.loads(body), json.loads(out)
    assert after["user"] != before["user"]
    assert after["safety_identifier"] != before["safety_identifier"]
    assert after["metadata"]["user_id"] != "u-77"
    assert after["metadata"]["note"] == "kept"
    assert after["messages"] == before["messages"]
    assert out.startswith(b'{ "model":"m",\n "user" : "')
    assert out == redactor.identities(body)
    assert out != Redactor().identities(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"role":"user"}',
        b'{"user":null}',
        b'{"messages":[{"user":"deep inside"}]}',
        b'{"tools":{"user":"deep inside"}}',
        b'["user", "joe"]',
        b"not json \xff\x00",
    ],
)
def test_other_bodies_stay_byte_for_byte(body: bytes) -> None:
    """Redaction must not disturb what it has no business with."""
    assert Redactor().identities(body) == body


@settings(suppress_health_check=[HealthCheck.too_slow])  # large by nature, slow on a busy machine
@given(
    st.dictionaries(
        st.sampled_from(["user", "model", "metadata", "messages", "x"]),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=12) | st.booleans(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["user", "user_id", "a"]), inner, max_size=3)
            ),
            max_leaves=8,
        ),
    )
)
def test_any_json_object_keeps_everything_but_identities(value: dict[str, object]) -> None:
    """Parsed, the redacted body differs at most at the identity fields."""
    before = json.loads(json.dumps(value))

    after = json.loads(Redactor().identities(json.dumps(value).encode()))

    for name in ("user",):
        before.pop(name, None), after.pop(name, None)
    for body in (before, after):
        if isinstance(body.get("metadata"), dict):
            body["metadata"].pop("user_id", None)
    assert after == before


def test_an_answer_keeps_its_length() -> None:
    """Chunk sizes must go on fitting the body."""
    body = b'{"user":"joe","x":1}'

    out = Redactor().identities(body, exact=True)

    assert len(out) == len(body)
    assert b"joe" not in out


LONG = "sk-proj-Zq81mVtR4kd0WxQ2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the key Zq81mVtR4kd0WxQ2 is bad", "the key **************** is bad"),
        ("the key ...R4kd0WxQ2 is bad", "the key ...********* is bad"),
        ("d0WxQ2", "d0WxQ2"),
        ("sk-proj-Zq81mVtR...", "****************..."),
        ("sk-proj-...", "sk-proj-..."),
        ("kd0WxQ2kd0WxQ2 4kd0WxQ24kd0WxQ2", "kd0WxQ2kd0WxQ2 ****************"),
        (LONG, "*" * len(LONG)),
    ],
)
def test_a_part_of_a_key_is_masked(text: str, shown: str) -> None:
    """From 8 characters of its end or 12 of its beginning on, as far as it goes."""
    secrets = secrets_of([("authorization", f"Bearer {LONG}")])

    assert secrets.mask_text(text) == shown
    assert secrets.found_in(text.encode()) == (text != shown)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("my-local-test-assistant", '{"role": "assistant"}'),
        ("deployment-gpt-4o-2024-08-06", "gpt-4o-mini-2024-08-06"),
        ("serving-Llama-3.1-8b-v0.1", "Mistral-7b-v0.1"),
        (LONG, "send Bearer sk-proj keys"),
    ],
)
def test_words_that_a_key_ends_with_stay(key: str, text: str) -> None:
    """A key that somebody made up is no reason to garble every prompt."""
    assert secrets_of([("authorization", f"Bearer {key}")]).mask_text(text) == text


@pytest.mark.parametrize("user", ["5", "12345", "-7.5e3", '"joe@example.com"', '""'])
def test_an_identity_keeps_its_length_and_stays_json_where_chunks_count_its_bytes(
    user: str,
) -> None:
    """A number becomes a number: an answer's chunks add up to its body, and it can be read."""
    body = b'{"user": %s, "a": 1}' % user.encode()
    stand_in = Redactor(b"k" * 32).identities(body, exact=True)

    assert len(stand_in) == len(body)
    assert json.loads(stand_in)["a"] == 1
    assert stand_in != body or user == '""'


@pytest.mark.parametrize("word", ["sk-\udcff\udcfe-0123456789ab", "half \ud800 a character"])
def test_a_secret_of_any_characters_has_spellings(word: str) -> None:
    """Bytes that are no UTF-8 are found as they came and in a URL; half a character harms nothing."""
    secrets = Secrets.of([word])
    raw = word.encode("utf-8", "surrogatepass" if "\ud800" in word else "surrogateescape")

    assert ("\ud800" in word) or not secrets.found_in(secrets.mask(b"x" + raw + b"x"))
    assert secrets.mask(b"nothing of it") == b"nothing of it"


def test_half_a_character_in_a_credential_is_no_obstacle() -> None:
    """In a header of a tool, as JSON in its text."""
    body = b'{"tools": [{"headers": {"x": "{\\"token\\": \\"abc\\ud800defgh\\"}"}}]}'

    assert without_credentials(body).masked == 1


@pytest.mark.parametrize("key", [KEY, "sk-live0123456789abcdefgh"])
def test_a_key_in_the_place_of_a_parameters_name_is_masked(key: str) -> None:
    """As a client writes it that forgets the name: known from a header, or looking like one."""
    secrets = secrets_of([("authorization", f"Bearer {KEY}")])

    assert safe_path(f"/v1/models?{key}=1&limit=5", secrets) == "/v1/models?***&limit=5"
