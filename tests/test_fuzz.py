"""A few of the mutants of benchmarks/fuzz.py, which makes twenty thousand: no defect, nothing that steers."""

import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

import pytest

FUZZ = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("fuzz", FUZZ)
    assert spec
    assert spec.loader
    module = sys.modules["fuzz"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "kind", ["t.msgpack", "a.run", "d.json", "layout.json", "baseline.json", "plan.toml", "log.gor"]
)
def test_a_mutant_is_bad_input_or_none(fuzz: Any, kind: str, tmp_path: Path) -> None:
    """Each ends with a code of README.md's table."""
    fuzzer = fuzz.Fuzzer(tmp_path, [kind])
    for number in range(12):
        fuzzer.mutant(number)

    assert fuzzer.faults == []
    assert fuzzer.codes.total() == 12


def test_a_mutant_is_made_again_from_its_number(fuzz: Any) -> None:
    """So that a fault can be looked at."""
    data = b"the same bytes each time, whatever came before" * 9

    assert fuzz.anyhow(data, random.Random(5)) == fuzz.anyhow(data, random.Random(5)) != data
