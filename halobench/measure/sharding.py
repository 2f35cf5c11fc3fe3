"""``pytest suites/ --shard 2/8``: of the cases that were collected and chosen, those of one shard are measured."""

from typing import Any

import pytest

from halobench.cases.network import AnyCase
from halobench.cases.shard import Shard

Fields = dict[str, Any]


class Sharding:
    """Leaves out the cases of other shards; ``section`` is what the results file says about it."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.section: Fields = {"number": shard.number, "count": shard.count, "cases": []}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Choose after ``-k`` and ``-m`` have chosen: what they leave is the sweep."""
        cases = {index: case for index, item in enumerate(items) if (case := case_of(item)) is not None}
        taken = dict(zip(cases, self.shard.takes(list(cases.values())), strict=True))
        self.section["cases"] = [case.name for case in cases.values()]
        config.hook.pytest_deselected(items=[items[index] for index, mine in taken.items() if not mine])
        items[:] = [item for index, item in enumerate(items) if taken.get(index, True)]


def case_of(item: pytest.Item) -> AnyCase | None:
    """The case that an item measures, if it does."""
    found: AnyCase | None = getattr(getattr(item, "callspec", None), "params", {}).get("case")
    return found if "measure" in getattr(item, "fixturenames", ()) else None
