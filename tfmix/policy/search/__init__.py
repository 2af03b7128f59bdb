"""Search methods, one a module. Importing one registers it: see `base`."""

from tfmix.policy.search import memory  # noqa: F401
