"""Data named on the command line."""

import argparse

import numpy as np
import pytest
import tensorflow as tf

from tfmix.cli.data import add_data, read_data
from tfmix.errors import TfmixError

SHAPE = (4, 6, 3)


def read(text, shape=SHAPE, *options: str, **settings):
    parser = argparse.ArgumentParser()
    add_data(parser, data="", train="")
    return read_data(str(text), shape, parser.parse_args(options), **settings)


@pytest.fixture
def images(tmp_path):
    """Two classes of images of one colour, 8x12: red 255, 51 ..., named by that value."""
    for folder, values in {"dark": (0, 51), "bright": (153, 204, 255)}.items():
        (tmp_path / folder).mkdir()
        for value in values:
            image = np.full((8, 12, 3), value, np.uint8)
            tf.io.write_file(str(tmp_path / folder / f"{value}.png"), tf.io.encode_png(image))
    (tmp_path / "bright" / "notes.txt").write_text("no image")
    return tmp_path


def test_arrays_in_a_file(tmp_path):
    x, y = np.ones((3, *SHAPE)), np.arange(3)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    np.savez(tmp_path / "b.npz", x=x)
    np.savez(tmp_path / "c.npz", images=x)
    found = read(tmp_path / "a.npz")
    np.testing.assert_array_equal(found[0], x)
    np.testing.assert_array_equal(found[1], y)
    np.testing.assert_array_equal(read(tmp_path / "b.npz"), x)
    with pytest.raises(TfmixError, match=r"holds arrays \['images'\]; x is needed"):
        read(tmp_path / "c.npz")
    (tmp_path / "d.npz").write_text("no archive")
    with pytest.raises(TfmixError, match="d.npz: not a .npz file"):
        read(tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", x=np.array([{}]))
    with pytest.raises(TfmixError, match="e.npz: not a .npz file of numbers"):
        read(tmp_path / "e.npz")


def test_a_function(tmp_path, monkeypatch):
    (tmp_path / "my_data.py").write_text(
        "import numpy as np\n"
        "def load():\n    return np.zeros((2, 3)), np.arange(2)\n"
        "def batches():\n    yield np.zeros((2, 3))\n    yield np.ones((2, 3))\n"
        "def fail():\n    raise OSError('no disk')\n"
    )
    monkeypatch.chdir(tmp_path)
    assert read("my_data:load")[1].tolist() == [0, 1]
    assert [batch.mean() for batch in read("my_data:batches")] == [0, 1]
    with pytest.raises(TfmixError, match="'my_data:fail': OSError: no disk"):
        read("my_data:fail")
    with pytest.raises(TfmixError, match="'my_data:nothing': AttributeError"):
        read("my_data:nothing")
    with pytest.raises(TfmixError, match="'not_there:load': ModuleNotFoundError"):
        read("not_there:load")
    with pytest.raises(TfmixError, match="no such folder, not a .npz file"):
        read("not_there")


@pytest.mark.parametrize(
    ("scale", "factor", "offset"),
    [("unit", 1 / 255, 0), ("signed", 2 / 255, -1), ("none", 1, 0)],
)
def test_a_folder_of_images(images, scale, factor, offset):
    x, y = read(images, SHAPE, "--scale", scale)
    assert (x.shape, x.dtype) == ((5, *SHAPE), np.float32)
    values = x[:, 0, 0, 0]
    expected = np.broadcast_to(values[:, None, None, None], x.shape)
    np.testing.assert_allclose(x, expected, atol=1e-6 * 255 * factor)
    np.testing.assert_allclose(
        np.sort(values),
        np.array([0, 51, 153, 204, 255]) * factor + offset,
        atol=1e-6 * 255 * factor,
    )
    # Folders in alphabetical order: "bright" is 0.
    assert y.tolist() == [int(value < 100 * factor + offset) for value in values]


def test_parts_and_orders_of_a_folder(images):
    x, y = read(images)
    part = read(images, limit=3)
    np.testing.assert_array_equal(part[0], x[:3])
    assert read(images / "dark").shape == (2, *SHAPE)  # no classes
    assert read(images, (4, 6, 1))[0].shape == (5, 4, 6, 1)
    dataset = read(images, SHAPE, "--batch-size", "2", train=True)
    epochs = [np.concatenate([labels for _, labels in dataset]) for _ in range(4)]
    assert all(sorted(labels) == sorted(y) for labels in epochs)
    assert len({tuple(labels) for labels in epochs}) > 1, "a new order each epoch"


def test_folders_that_will_not_do(images):
    with pytest.raises(TfmixError, match="images have 1, 3 or 4 channels; the model takes"):
        read(images, (4, 6, 2))
    (images / "dark" / "bad.png").write_text("no image")
    with pytest.raises(TfmixError, match="bad.png: cannot be read as an image"):
        read(images)
    (images / "empty").mkdir()
    with pytest.raises(TfmixError, match="empty: no images; .bmp"):
        read(images / "empty")
