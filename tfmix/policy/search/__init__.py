"""Search methods, one a module. Importing one registers it: see `base`."""

from tfmix.policy.search import (  # noqa: F401
    evolutionary,
    ilp,
    memory,
    random,
    rl,
    uniform,
)
