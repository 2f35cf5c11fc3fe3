"""What two services ask of pytest-benchmark's JSON, after their documentation and source; nothing of them is used.

Bencher: https://bencher.dev/docs/explanation/adapters, adapter ``python_pytest``
(lib/bencher_adapter/src/adapters/python/pytest.rs of bencherdev/bencher). github-action-benchmark, ``tool: 'pytest'``:
https://github.com/benchmark-action/github-action-benchmark (``extractPytestResult`` in src/extract.ts).
"""

import json

LONGEST_NAME = 1024  # of a benchmark in Bencher
LARGEST = 7.9e28  # of its decimal numbers


def strict(text):
    """JSON as serde_json and JavaScript read it: without NaN and infinities."""

    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def number(value):
    """A number, and no text or flag that looks like one."""
    assert isinstance(value, int | float), value
    assert not isinstance(value, bool), value
    assert abs(value) < LARGEST
    return value


def bencher(text):
    """Name -> (mean, stddev, median, iqr) in seconds. Two sections of the file must be objects, of whatever content."""
    document = strict(text)
    assert isinstance(document["machine_info"], dict)
    assert isinstance(document["commit_info"], dict)
    found = {}
    for benchmark in document["benchmarks"]:
        name = benchmark["fullname"]
        assert 0 < len(name.encode()) <= LONGEST_NAME
        assert name == name.strip()
        found[name] = tuple(number(benchmark["stats"][each]) for each in ("mean", "stddev", "median", "iqr"))
    return found


def github_action_benchmark(text):
    """Name -> (calls a second, their deviation, mean in seconds, rounds)."""
    return {
        each["fullname"]: tuple(number(each["stats"][name]) for name in ("ops", "stddev", "mean", "rounds"))
        for each in strict(text)["benchmarks"]
    }
