"""The networks of the papers as tf_keras models, width and resolution as parameters.

MobileNetV1 and V2 are those of tf_keras.applications. MNasNet-A1, which is not among them, is built
here from its paper.
"""

from __future__ import annotations

from typing import Any

import tf_keras

from tfmix.errors import TfmixError

_layers = tf_keras.layers

#: Gates of squeeze and excitation, as tf_keras names them.
GATES = ("sigmoid", "hard_sigmoid")
_SMALLEST_IMAGE = 32
_SQUEEZE = 4  # channels into a block for each channel of its squeezed vector
_HEAD = 1280  # channels before the classifier, whatever the width


def mobilenet_v1(
    resolution: int = 224, width: float = 1.0, classes: int = 1000, weights: str | None = None
) -> tf_keras.Model:
    """MobileNetV1: A. Howard et al., MobileNets, 2017, table 1.

    Args:
      resolution: rows and columns of the image [resolution, resolution, 3], 32 or more.
      width: the paper's alpha, by which channels are multiplied.
      classes: of the softmax at the end.
      weights: None for random ones, "imagenet", which are downloaded (resolution 128, 160, 192 or
        224, width 0.25, 0.5, 0.75 or 1, 1000 classes, inputs in [-1, 1]), or a file of weights.

    Raises TfmixError where tf_keras.applications does not have the network.
    """
    return _application("MobileNet", resolution, width, classes, weights)


def mobilenet_v2(
    resolution: int = 224, width: float = 1.0, classes: int = 1000, weights: str | None = None
) -> tf_keras.Model:
    """MobileNetV2: M. Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR
    2018, table 2.

    Arguments and errors as of `mobilenet_v1`; "imagenet" also has resolution 96 and widths 0.35,
    1.3 and 1.4.
    """
    return _application("MobileNetV2", resolution, width, classes, weights)


def _application(
    name: str, resolution: int, width: float, classes: int, weights: str | None
) -> tf_keras.Model:
    _check(name, resolution, width, classes)
    try:
        return getattr(tf_keras.applications, name)(
            input_shape=(resolution, resolution, 3), alpha=width, classes=classes, weights=weights
        )
    except ValueError as error:
        raise TfmixError(f"{name}: {error}") from error


def _check(name: str, resolution: int, width: float, classes: int) -> None:
    for what, value, least in (
        ("resolution", resolution, _SMALLEST_IMAGE),
        ("classes", classes, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise TfmixError(f"{name}: {what} {value!r} is not a whole number of at least {least}")
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width < 100:
        raise TfmixError(f"{name}: width {width!r} is not a number above 0, and below 100")


# -- MNasNet ------------------------------------------------------------------------------------

#: Figure 7 (a): expansion, kernel, squeeze and excitation, channels, blocks, stride of the first.
_A1 = (
    (6, 3, False, 24, 2, 2),
    (3, 5, True, 40, 3, 2),
    (6, 3, False, 80, 4, 2),
    (6, 3, True, 112, 2, 1),
    (6, 5, True, 160, 3, 2),
    (6, 3, False, 320, 1, 1),
)


def mnasnet_a1(
    resolution: int = 224, width: float = 1.0, classes: int = 1000, gate: str = "sigmoid"
) -> tf_keras.Model:
    """MNasNet-A1: M. Tan et al., MnasNet: Platform-Aware Neural Architecture Search for Mobile,
    CVPR 2019, figure 7 (a); 3.9 M parameters and 312 M multiply-adds at 224 x 224 (table 1).

    What the figure leaves open is as in the authors' code (tensorflow/tpu, official/mnasnet): 1280
    channels before the classifier at any width, other channels rounded to multiples of 8, the
    squeezed vector a quarter of the channels that enter the block. Squeeze and excitation: J. Hu et
    al., CVPR 2018. Weights are random.

    Args:
      resolution: rows and columns of the image [resolution, resolution, 3], 32 or more.
      width: by which channels are multiplied.
      classes: of the softmax at the end.
      gate: what makes factors of the excited vector: "sigmoid", the paper's, or "hard_sigmoid",
        clip(0.2 x + 0.5, 0, 1).

    Raises TfmixError naming an argument that is not as above.
    """
    _check("mnasnet_a1", resolution, width, classes)
    if gate not in GATES:
        raise TfmixError(f"mnasnet_a1: gate {gate!r} is not one of {GATES}")
    image = x = tf_keras.Input((resolution, resolution, 3), name="image")
    x = _relu("stem", _conv("stem", x, _rounded(32, width), 3, 2))
    x = _relu("dw0", _depthwise("dw0", x, 3, 1))
    x = _conv("project0", x, _rounded(16, width))
    block = 1
    for expansion, kernel, squeeze, channels, blocks, first_stride in _A1:
        for repeat in range(blocks):
            skip, before = x, x.shape[-1]
            x = _relu(f"expand{block}", _conv(f"expand{block}", x, expansion * before))
            stride = 1 if repeat else first_stride
            x = _relu(f"dw{block}", _depthwise(f"dw{block}", x, kernel, stride))
            if squeeze:
                x = _excite(block, x, max(1, before // _SQUEEZE), gate)
            x = _conv(f"project{block}", x, _rounded(channels, width))
            if repeat:
                x = _layers.Add(name=f"add{block}")([skip, x])
            block += 1
    x = _relu("head", _conv("head", x, _HEAD))
    x = _layers.GlobalAveragePooling2D(name="pool")(x)
    x = _layers.Dropout(0.2, name="dropout")(x)
    x = _layers.Dense(classes, activation="softmax", name="classifier")(x)
    return tf_keras.Model(image, x, name="mnasnet_a1")


def _rounded(channels: int, width: float) -> int:
    """The multiple of 8 next to channels * width, but none that is lower by more than a tenth."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def _conv(name: str, x: Any, channels: int, kernel: int = 1, stride: int = 1) -> Any:
    x = _layers.Conv2D(channels, kernel, stride, "same", use_bias=False, name=name)(x)
    return _layers.BatchNormalization(name=f"{name}_bn")(x)


def _depthwise(name: str, x: Any, kernel: int, stride: int) -> Any:
    x = _layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=name)(x)
    return _layers.BatchNormalization(name=f"{name}_bn")(x)


def _relu(name: str, x: Any) -> Any:
    return _layers.ReLU(name=f"{name}_relu")(x)


def _excite(block: int, x: Any, squeezed: int, gate: str) -> Any:
    """x times a factor for each channel, which all of x decides."""
    y = _layers.GlobalAveragePooling2D(keepdims=True, name=f"squeeze{block}")(x)
    y = _layers.Dense(squeezed, activation="relu", name=f"reduce{block}")(y)
    y = _layers.Dense(x.shape[-1], activation=gate, name=f"excite{block}")(y)
    return _layers.Multiply(name=f"gate{block}")([x, y])
