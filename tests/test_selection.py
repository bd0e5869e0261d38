"""Selection: which requests are recorded by default, by filter and by sample."""

import pytest

from tbench.capture.errors import InputError
from tbench.capture.intake import API_HOSTS, Selection


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("POST", "/v1/chat/completions", True),
        ("POST", "/v1/v1/chat/completions", True),
        ("POST", "/openai/deployments/x/chat/completions?api-version=1", True),
        ("POST", "/v1/completions", True),
        ("POST", "/v1/embeddings", True),
        ("POST", "/v1/rerank", True),
        ("POST", "/v1/messages", True),
        ("POST", "/v1/audio/transcriptions", True),
        ("GET", "/v1/models", True),
        ("GET", "/v1/chat/completions", False),
        ("POST", "/v1/files/upload", False),
        ("POST", "/v1/fine-tunes", False),
        ("GET", "/", False),
    ],
)
def test_inference_and_the_model_list_are_recorded_by_default(
    method: str, path: str, wanted: bool
) -> None:
    """What a replay can use, and the prices; nothing that moves files or jobs."""
    assert Selection().leaves_out(method, "any", path) == (None if wanted else "path")


def test_path_globs_replace_the_default_for_any_method() -> None:
    """`--path '*'` records everything."""
    everything = Selection(paths=("*",))
    files = Selection(paths=("/v1/files*", "/v1/batches"))

    assert everything.leaves_out("DELETE", "any", "/v1/files/1") is None
    assert files.leaves_out("GET", "any", "/v1/files?limit=3") is None
    assert files.leaves_out("POST", "any", "/v1/chat/completions") == "path"


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("api.together.xyz", True),
        ("api.together.ai:443", True),
        ("api-inference.together.ai", True),
        ("mine.openai.azure.com", True),
        ("127.0.0.1:8000", True),
        ("localhost", True),
        ("api.together.xyz.evil.example", False),
        ("example.com", False),
    ],
)
def test_the_known_hosts_match_whole_names(host: str, wanted: bool) -> None:
    """A look-alike is not looked into."""
    assert Selection(hosts=API_HOSTS).wants_host(host) is wanted


def test_mitmproxys_allow_hosts_match_with_and_without_a_port() -> None:
    """It searches in HOST:PORT, so the pattern must be anchored."""
    import re

    (pattern,) = Selection(hosts=(r"a\.b",)).allow_hosts()

    assert re.search(pattern, "a.b:443")
    assert not re.search(pattern, "xa.b:443")
    assert not re.search(pattern, "a.b.c:443")


def test_a_sample_keeps_sessions_together_and_draws_its_share() -> None:
    """The same session is always in or always out."""
    half = Selection(sample=0.5)
    drawn = [half.draws(f"session-{n}") for n in range(4_000)]

    assert drawn == [half.draws(f"session-{n}") for n in range(4_000)]
    assert 0.45 < sum(drawn) / len(drawn) < 0.55


def test_a_session_that_is_no_utf8_is_drawn_as_any() -> None:
    assert {Selection(sample=0.5).draws(f"s-{n}\udcff") for n in range(40)} == {True, False}


@pytest.mark.parametrize("sample", [0, -0.1, 1.1, float("nan")])
def test_a_sample_is_a_share(sample: float) -> None:
    """Zero would record nothing at all."""
    with pytest.raises(InputError, match="--sample"):
        Selection(sample=sample)


def test_a_bad_host_pattern_is_named() -> None:
    """The message says which one and why."""
    with pytest.raises(InputError, match=r"--host '\*\.x'"):
        Selection(hosts=("*.x",))
