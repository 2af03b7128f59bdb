"""Lets every test import the helper modules beside this file, and keeps memory in bounds."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="module")
def without_the_models_of_other_modules() -> Iterator[None]:
    """Keras and TensorFlow hold on to every model ever built: gigabytes over the whole suite."""
    yield
    if "tf_keras" in sys.modules:
        sys.modules["tf_keras"].backend.clear_session()
        gc.collect()
        gc.freeze()  # what is left stays, and is not looked through again: that took seconds
