"""`import tfmix`: names are imported when they are used, and all of them are there."""

import ast
import inspect
import subprocess
import sys

import pytest

import tfmix
from tfmix import _DEFINED_IN, _HOME


def python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def for_type_checkers() -> dict[str, tuple[str, ...]]:
    """What `if TYPE_CHECKING` imports, by module."""
    tree = ast.parse(inspect.getsource(tfmix))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    return {node.module: tuple(alias.name for alias in node.names) for node in guarded.body}


def test_type_checkers_see_what_is_there():
    assert for_type_checkers() == {m: tuple(names) for m, names in _DEFINED_IN.items()}
    assert sorted(tfmix.__all__) == sorted(_HOME)
    assert set(tfmix.__all__) <= set(dir(tfmix))


@pytest.mark.parametrize("name", tfmix.__all__)
def test_every_name_is_there(name):
    assert getattr(tfmix, name) is not None


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="module 'tfmix' has no attribute 'quantise'"):
        tfmix.quantise  # noqa: B018


def test_export_stays_the_function():
    import tfmix.export.memory

    assert inspect.isfunction(tfmix.export)
    assert inspect.ismodule(sys.modules["tfmix.export"])


def test_what_needs_no_tensorflow_imports_none():
    code = """
import sys
import tfmix
assert "numpy" not in sys.modules
tfmix.Budget("1MB"), tfmix.TfmixError, tfmix.QuantizationPolicy, tfmix.__version__
heavy = {"tensorflow", "tf_keras", "keras", "scipy", "h5py", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    python(code)


@pytest.mark.parametrize("imports", ["tf_keras, tfmix", "tfmix, tensorflow_model_optimization"])
def test_layers_are_registered_whoever_imports_keras(imports):
    """So that `tf_keras.models.load_model` reads a fake-quant model after `import tfmix`; tests of
    files import tfmix first, then tf_keras."""
    code = f"import {imports}\nimport tf_keras\nprint(*tf_keras.saving.get_custom_objects())"
    assert "tfmix>QuantizedLayer" in python(code).split()
