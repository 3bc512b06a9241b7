"""How the ranks of a test are started."""

import pytest

from tests import children
from tests.distributed import processes


@pytest.fixture(autouse=True)
def _start_the_ranks_of_slow_tests_from_nothing(request, monkeypatch):
    if request.node.get_closest_marker("slow"):
        monkeypatch.setattr(processes, "CONTEXT", children.FRESH)
