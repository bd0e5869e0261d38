"""What goes wrong, by whom it is asked for and how often; and the profiles that say so."""

import os
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.errors import InputError
from tbench.simulator.call import Fault, RateLimit, asked_fault, drawn_fault
from tbench.simulator.engine import check_faults, load_profile, parse_profile
from tbench.simulator.service import Rules


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("cut", Fault("cut")),
        ("503", Fault("503")),
        ("stall;at=3;s=0.5", Fault("stall", 3, 0.5)),
        ("stall; at=3", Fault("stall", 3)),
        ("stall;at=x", None),
        ("stall;at=-1", None),
        ("stall;s=nan", None),
        ("stall;s=-1", None),
        ("\xb2", None),
        ("5" * 5000, None),
        ("nonsense", None),
        ("200", None),
        ("", None),
    ],
)
def test_a_fault_is_asked_for_by_name(text: str, fault: Fault | None) -> None:
    """Kind, then place and seconds; what means nothing is no fault."""
    assert asked_fault(text) == fault


def test_faults_come_as_often_as_their_rates() -> None:
    """Over 20,000 draws each share is met within four standard errors, the same with the same seed."""
    rates = {"429": 0.05, "cut": 0.2}

    def draws() -> list[str]:
        rng = Random(1)
        return [f.kind if (f := drawn_fault(rates, rng)) else "" for _ in range(20_000)]

    drawn = draws()
    assert drawn.count("429") / 20_000 == pytest.approx(0.05, abs=0.0062)
    assert drawn.count("cut") / 20_000 == pytest.approx(0.2, abs=0.0114)
    assert drawn == draws()


@given(tokens=st.integers(1, 50), seed=st.integers(), at=st.none() | st.integers(0, 99))
def test_a_fault_strikes_inside_the_stream(tokens: int, seed: int, at: int | None) -> None:
    """Never after the last token; after the first, unless asked for earlier or there is but one."""
    place = Fault("cut", at).place(tokens, Random(seed))

    assert 0 <= place <= tokens - 1
    if at is None and tokens > 1:
        assert place >= 1


def test_the_rate_limit_lets_through_what_flows_in() -> None:
    """After the burst, ten per second pass, however many ask."""
    limit = RateLimit(10, 5)
    passed = sum(limit.take(1 + n / 100) == 0 for n in range(1000))

    assert passed == pytest.approx(5 + 10 * 10, abs=1)


def test_a_refused_request_is_told_when_to_come_again() -> None:
    """The wait that is named is the wait that is needed."""
    limit = RateLimit(2, 1)
    assert limit.take(100) == 0
    wait = limit.take(100.1)

    assert wait == pytest.approx(0.4)
    assert limit.headers(wait)["x-ratelimit-reset"] == "0.400"
    assert limit.take(100.1 + wait + 1e-9) == 0


@given(wait=st.floats(1e-3, 1e6))
def test_who_comes_again_when_told_is_not_too_early(wait: float) -> None:
    """Whole seconds, and no fewer than the wait."""
    assert int(RateLimit(1, 1).headers(wait)["retry-after"]) >= wait


def test_without_a_limit_nothing_is_refused_and_nothing_said() -> None:
    """Rate 0 is no limit; a refusal that is a fault says when to come again, and no limit of 0."""
    limit = RateLimit(0, 1)

    assert all(limit.take(0) == 0 for _ in range(100))
    assert limit.headers() == {}
    assert limit.headers(0.5)["retry-after"] == "1"
    assert "x-ratelimit-limit" not in limit.headers(0.5)


def test_the_slow_profile_differs_from_the_fast_one_in_speed_only() -> None:
    """Both say the same texts, so that a comparison measures time."""
    fast, slow = load_profile("fast"), load_profile("slow")

    assert fast.lengths == slow.lengths
    assert fast.limits == slow.limits
    assert fast.engine.step_s < slow.engine.step_s
    assert fast.engine.prefill_tokens_per_s > slow.engine.prefill_tokens_per_s


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[engine", "not TOML"),
        ("a = " + "[" * 100_000, "not TOML"),
        ("faults = 3", "faults must be a table"),
        ("early_head = 'false'", "early_head must be true or false"),
        ("speed = 1", "unknown key speed"),
        ("[engine]\nspeed = 1", "unknown key speed"),
        ("engine = 3", "must be a table"),
        ("[engine]\nstep_s = 'fast'", "step_s must be a finite number"),
        ("[engine]\nstep_s = -1", "step_s must be a finite number"),
        ("[engine]\nstep_s = inf", "step_s must be a finite number"),
        ("[engine]\nmax_batch = 1.5", "max_batch must be a whole number from 1, not 1.5"),
        ("[engine]\ncache_blocks = 1.5", "cache_blocks must be a whole number not below 0"),
        ("[lengths]\nmaximum = true", "maximum must be a whole number not below 0"),
        ("[engine]\nmax_batch = 0", "max_batch must be above 0"),
        ("[engine]\nmax_queue = 0", "max_queue must be above 0"),
        ("[faults]\nmood = 0.1", "no such fault: mood"),
        ("[faults]\ncut = 2", "from 0 to 1"),
        ("[faults]\ncut = 0.6\nerror = 0.6", "together are above 1"),
    ],
)
def test_a_wrong_profile_is_refused_by_the_key_at_fault(text: str, said: str) -> None:
    """One line that names what is wrong."""
    with pytest.raises(InputError, match=said):
        parse_profile(text, "mine")


def test_a_profile_takes_what_it_names_and_keeps_the_rest() -> None:
    """Tables may be partial."""
    profile = parse_profile("early_head = true\n[engine]\nstep_s = 1\n[faults]\n429 = 0.1", "mine")

    assert profile.name == "mine"
    assert profile.early_head
    assert profile.engine.step_s == 1
    assert profile.faults == {"429": 0.1}


def test_an_unknown_profile_is_refused(tmp_path: Path) -> None:
    """Neither shipped nor a file, or one that is no text."""
    (tmp_path / "a.toml").write_bytes(b"\xff")
    with pytest.raises(InputError, match="not TOML"):
        load_profile(str(tmp_path / "a.toml"))
    with pytest.raises(InputError, match="use fast, slow or a TOML file"):
        load_profile("warp")


def test_rates_are_shares() -> None:
    """The same check serves the command line."""
    check_faults({"429": 0.5, "cut": 0.5}, "here")
    with pytest.raises(InputError, match="here: the rate"):
        check_faults({"429": -0.5}, "here")


def test_keys_are_good_by_the_rules() -> None:
    """The given ones, or without any all but those that begin with "bad"."""
    strict, lax = Rules(keys=("one", "two")), Rules()

    assert [strict.admits(f"Bearer {key}") for key in ("one", "two", "onetwo", "")] == [1, 1, 0, 0]
    assert [lax.admits(said) for said in ("Bearer x", "bearer x", "Bearer bad1", "x")] == [
        1,
        1,
        0,
        0,
    ]


@pytest.mark.parametrize("raw", ["schlüssel".encode(), b"k\xff"])
def test_a_key_beyond_ascii_is_good_by_its_bytes(raw: bytes) -> None:
    """As the command line gives it, and as ASGI hands on a header."""
    rules = Rules(keys=(os.fsdecode(raw),))

    assert rules.admits("Bearer " + raw.decode("latin-1"))
    assert not rules.admits("Bearer x")
