"""Lets plain `tf_keras.models.load_model` read fake-quant models after nothing but `import tfmix`.

It looks layers up in a table that they enter when their module is imported, which needs TensorFlow
and takes seconds; `import tfmix` must not. So they are imported as soon as Keras 2 has been,
whoever imports it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: The module that leads to all that is registered.
_REGISTERED = "tfmix.fakequant.apply"
#: Packages that it needs, and that it must not be imported in the middle of.
_NEEDED = ("tf_keras", "tensorflow_model_optimization")


def register_with_keras() -> None:
    """Now, if Keras 2 is there, else when it comes."""
    if _NEEDED[0] in sys.modules:
        register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def register() -> None:
    """Imports what is registered, if Keras 2 is there and no module of tfmix is half imported."""
    if _NEEDED[0] in sys.modules and not any(
        name.startswith("tfmix.") and getattr(module.__spec__, "_initializing", False)
        for name, module in sys.modules.items()
    ):
        import_module(_REGISTERED)


class _Finder(MetaPathFinder):
    """Finds nothing by itself; adds `register` to what others find of `_NEEDED`."""

    def __init__(self) -> None:
        self._under_way: list[str] = []

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _NEEDED or name in self._under_way:
            return None
        self._under_way.append(name)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            self._under_way.remove(name)
            return None
        self._add_to(spec.loader, name)
        return spec

    def _add_to(self, loader: Loader, name: str) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            try:
                execute(module)
            finally:
                self._under_way.remove(name)
            if not self._under_way:
                register()

        loader.exec_module = exec_module  # type: ignore[method-assign]
