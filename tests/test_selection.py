"""The quick part of the tests leaves out no layer, rule, size or backend, and the rest runs what it leaves out."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import selection

HERE = Path(__file__).parent


def collected(cases, *files):
    """{test: the names of its cases} that pytest would run."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "--cases", cases, "-p", "no:cacheprovider", *files]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LRPFAST_", "PYTEST_"))}
    done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^\S*?(\w+\.py::\w+)(?:\[(.*)\])?$", done.stdout, re.MULTILINE)
    return {test: [name for other, name in found if other == test] for test, _ in found}


@pytest.fixture(scope="module")
def parts():
    files = [HERE / "test_layers.py", HERE / "test_rules.py", HERE / "test_soak.py"]
    return {cases: collected(cases, *files) for cases in ("quick", "rest", "all")}


def test_the_parts_make_the_whole(parts):
    for test, names in parts["all"].items():
        quick, rest = parts["quick"].get(test, []), parts["rest"].get(test, [])
        assert sorted(quick + rest) == sorted(names), test


def test_everything_has_its_turn(parts):
    """Layers and rules are what the cases of these tests are named for."""
    for test in ("test_layers.py::test_one_layer", "test_rules.py::test_one_layer", "test_rules.py::test_network"):
        words = [set().union(*map(selection.words_of, parts[cases][test])) for cases in ("quick", "all")]
        assert words[0] == words[1]
        assert len(parts["quick"][test]) < 0.4 * len(parts["all"][test])


def test_long_tests_wait_for_the_rest(parts):
    test = "test_soak.py::test_results_do_not_change_and_memory_does_not_grow"
    assert [parts[cases].get(test) for cases in ("quick", "rest")] == [["5"], ["60"]]


@pytest.mark.parametrize("share", [2, 3, 10])
def test_words_that_stand_in_few_names(share):
    names = [f"{layer}-{rule}" for layer in range(40) for rule in ("zero", "gamma")] + [
        "rare-zero",
        "rare-gamma",
        "one",
    ]
    chosen = selection.quick(names, share)
    assert {name for at in chosen for name in names[at].split("-")} >= {"rare", "zero", "gamma", "0", "39"}
    assert len(chosen) <= len(names) / share + 45
