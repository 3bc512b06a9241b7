"""Settings for all tests."""

import os

from hypothesis import settings

# Before torch is imported: its OpenMP threads otherwise spin while they wait, and take the processors from the other
# test processes (pytest -n auto). With as many processes as cores, some tests take five times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# No deadline: the first example of a kernel pays for its compilation.
# In CI every run takes the same examples; on a developer's machine they differ, and failures are remembered.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
