"""tf_keras models -> graph and weights: every layer and setting, fusion, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import real_data
import tensorflow as tf
import tf_keras
from keras_models import IMAGE, SUPPORTED, chain, functional, quantized, randomize, small_cnn

import tfmix
from tfmix.errors import UnsupportedModelError
from tfmix.fakequant.apply import graph_of
from tfmix.frontend.keras import LOOKUP_ACTIVATIONS, hard_sigmoid_6, read
from tfmix.ir.graph import FUNCTIONS, Graph, Node, Op

layers = tf_keras.layers
conv, bn, relu, pad = (
    layers.Conv2D,
    layers.BatchNormalization,
    layers.ReLU,
    layers.ZeroPadding2D,
)


def graph(model: tf_keras.Model) -> Graph:
    return read(model).graph


def ops(model: tf_keras.Model) -> list[str]:
    return [node.op.value for node in graph(model).nodes]


def only_node(model: tf_keras.Model) -> Node:
    (node,) = graph(model).nodes
    return node


# -- what is supported --------------------------------------------------------------------------


@pytest.mark.parametrize("case", SUPPORTED)
def test_reads(case):
    model = SUPPORTED[case]()
    found = graph(model)
    assert tfmix.check(model) == []
    assert found.tensors[found.input].shape == model.input_shape[1:]
    assert found.tensors[found.output].shape == model.output_shape[1:]
    assert set(found.tensors) == {found.input, *(node.output for node in found.nodes)}
    seen = {found.input}
    for node in found.nodes:
        assert seen.issuperset(node.inputs), f"{node.name} runs before its inputs"
        seen.add(node.output)


@pytest.mark.parametrize("case", SUPPORTED)
def test_the_fake_quant_model_has_the_graph_of_the_float_one(case):
    model, qmodel = quantized(case)
    expected, found = graph(model), graph_of(qmodel)
    assert found == expected
    assert list(found.tensors) == list(expected.tensors)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("conv2d", "conv2d"),
        ("conv2d softmax", "conv2d softmax"),
        ("separable", "depthwise_conv2d conv2d"),
        ("separable ReLU(6)", "depthwise_conv2d conv2d"),
        ("dense on pixels", "dense"),
        ("dense Softmax()", "dense softmax"),
        ("Activation(linear)", "conv2d"),
        ("relu on the input", "relu conv2d"),
        ("relu6 after relu", "conv2d relu"),
        ("softmax in the middle", "conv2d softmax conv2d"),
        ("conv2d, batch norm", "conv2d"),
        ("conv2d without bias, batch norm, relu", "conv2d"),
        ("dense, batch norm", "dense"),
        ("batch norm alone", "batch_norm"),
        ("batch norm after relu", "conv2d batch_norm"),
        ("batch norm twice", "conv2d batch_norm"),
        ("add", "conv2d conv2d add"),
        ("add of three, relu", "conv2d conv2d add conv2d add"),
        ("add of one", "conv2d"),
        ("add of the same", "conv2d add"),
        ("concatenate", "conv2d conv2d conv2d concatenate"),
        ("concatenate of one", "conv2d"),
        ("average pool same", "average_pool"),
        ("global average pool", "average_pool"),
        ("global max pool, keepdims", "conv2d max_pool"),
        ("flatten", "conv2d reshape dense"),
        ("reshape through four dimensions", "reshape reshape dense"),
        ("padding folded", "conv2d"),
        ("padding folded into same", "conv2d"),
        ("padding chain folded", "conv2d"),
        ("padding as large as the window", "pad conv2d"),
        ("padding before a pool", "pad average_pool"),
        ("padding read twice", "pad conv2d max_pool concatenate"),
        ("padding last", "conv2d pad"),
        ("dropout", "conv2d conv2d"),
        ("spatial dropout", "conv2d"),
        ("dropout last", "conv2d"),
        ("nested", "conv2d dense"),
        ("nested with two outputs", "conv2d"),
    ],
)
def test_nodes_in_order(case, expected):
    assert ops(SUPPORTED[case]()) == expected.split()


# -- activations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("linear", (False, None)),
        ("relu", (True, None)),
        (tf.nn.relu, (True, None)),
        (tf.nn.relu6, (True, 6.0)),
        ("relu6", (True, 6.0)),
        (layers.ReLU(), (True, None)),
        (layers.ReLU(6.0), (True, 6.0)),
        (layers.ReLU(2.5), (True, 2.5)),
    ],
)
@pytest.mark.parametrize(
    "layer", [lambda **a: conv(4, 3, **a), lambda **a: layers.DepthwiseConv2D(3, **a)]
)
def test_activation_inside_a_layer(layer, activation, expected):
    model = chain(layer(activation=activation, name="layer"))
    node = only_node(model)
    assert (node.relu, node.relu_max) == expected
    assert (node.name, node.output, node.relu_layer) == ("layer", "layer", None)
    assert graph(model).tensors["layer"].signed == (not node.relu)


@pytest.mark.parametrize("activation", ["softmax", tf.nn.softmax, layers.Softmax()])
def test_softmax_inside_a_layer_is_a_node_of_its_own(activation):
    found = graph(chain(layers.Dense(4, activation=activation, name="dense"), shape=(7,)))
    assert [node.name for node in found.nodes] == ["dense", "dense_softmax"]
    assert found.output == "dense_softmax"
    assert found.fixed_tensors == {"image", "dense"}


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("sigmoid", "sigmoid"),
        (tf.nn.sigmoid, "sigmoid"),
        ("hard_sigmoid", "hard_sigmoid"),
        (hard_sigmoid_6, "hard_sigmoid_6"),
    ],
)
def test_a_lookup_is_a_node_of_its_own(activation, function):
    inside = chain(conv(4, 3, activation=activation, name="conv"), layers.Flatten())
    alone = chain(conv(4, 3, name="conv"), layers.Activation(activation, name="gate"))
    for model, name in ((inside, f"conv_{function}"), (alone, "gate")):
        found = graph(model)
        node = found.producers[name]
        assert (node.op, node.function, node.inputs) == (Op.LOOKUP, function, ("conv",))
        assert not found.tensors[name].signed and found.tensors["conv"].signed
    # What decides the output keeps its bits, also before the table.
    assert graph(alone).fixed_tensors == {"image", "conv", "gate"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lookups_compute_what_keras_does(name):
    x = np.linspace(-9, 9, 1001, dtype=np.float32)
    expected = LOOKUP_ACTIVATIONS[name](tf.constant(x))
    np.testing.assert_allclose(FUNCTIONS[name](x), expected, atol=2e-7)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("keepdims", [False, True])
def test_the_factor_for_each_channel_is_the_second(swapped, keepdims):
    def build(x):
        y = layers.GlobalMaxPooling2D(keepdims=keepdims, name="factor")(x)
        return layers.Multiply(name="product")([y, x] if swapped else [x, y])

    found = graph(functional(build))
    assert found.producers["product"].inputs == ("image", "factor")
    assert found.tensors["product"].shape == IMAGE


def test_activation_as_a_layer_gives_its_name_to_the_output():
    node = only_node(chain(conv(4, 3, name="conv"), layers.ReLU(6.0, name="relu")))
    assert (node.name, node.output, node.relu_layer) == ("conv", "relu", "relu")
    assert (node.relu, node.relu_max) == (True, 6.0)


# -- fusion -------------------------------------------------------------------------------------


def test_batch_norm_and_relu_are_fused():
    node = only_node(chain(conv(4, 3, name="conv"), bn(name="bn"), relu(name="relu")))
    assert (node.name, node.batch_norm, node.relu_layer) == ("conv", "bn", "relu")
    assert node.output == "relu"


@pytest.mark.parametrize("follower", [bn, relu])
def test_nothing_is_fused_where_two_layers_read(follower):
    def build(x):
        y = conv(4, 1)(x)
        return layers.Concatenate()([y, follower()(y)])

    (first, second, _) = graph(functional(build)).nodes
    assert (first.batch_norm, first.relu) == (None, False)
    assert second.op in (Op.BATCH_NORM, Op.RELU)


@pytest.mark.parametrize("follower", [bn, relu])
def test_nothing_is_fused_into_the_output_of_the_network(follower):
    """The output of the inner model that is used is what the outer model gives."""

    def build(x):
        inputs = tf_keras.Input(IMAGE)
        y = conv(4, 1, name="conv")(inputs)
        return tf_keras.Model(inputs, [y, follower()(y)])(x)[0]

    node = only_node(functional(build))
    assert (node.output, node.batch_norm, node.relu) == ("conv", None, False)


@pytest.mark.parametrize("host", ["add", "concatenate", "average_pool", "batch_norm"])
def test_relu_is_fused_into(host):
    def build(x):
        y, z = conv(3, 1)(x), conv(3, 1)(x)
        y = {
            "add": lambda: layers.Add()([y, z]),
            "concatenate": lambda: layers.Concatenate()([y, z]),
            "average_pool": lambda: layers.AveragePooling2D()(x),
            "batch_norm": lambda: bn()(x),
        }[host]()
        return relu(name="relu")(y)

    last = graph(functional(build)).nodes[-1]
    assert (last.op.value, last.relu, last.output) == (host, True, "relu")


def test_relu_is_not_fused_into_a_max_pool():
    assert ops(chain(conv(4, 3), layers.MaxPooling2D(), relu())) == ["conv2d", "max_pool", "relu"]


# -- batch norm ---------------------------------------------------------------------------------


@pytest.mark.parametrize("use_bias", [True, False])
def test_bias_and_batch_norm_both_arrive(use_bias):
    model = randomize(chain(conv(4, 3, use_bias=use_bias, name="conv"), bn(epsilon=0.01)))
    weights = read(model).weights["conv"]
    kernel, *bias = model.layers[1].get_weights()
    gamma, beta, mean, variance = model.layers[2].get_weights()
    np.testing.assert_array_equal(weights.kernel, kernel)
    assert only_node(model).use_bias == use_bias
    if use_bias:
        np.testing.assert_array_equal(weights.bias, *bias)
    else:
        assert weights.bias is None
    found = weights.batch_norm
    for value, expected in (
        (found.gamma, gamma),
        (found.beta, beta),
        (found.mean, mean),
        (found.variance, variance),
    ):
        np.testing.assert_array_equal(value, expected)
    assert found.epsilon == 0.01


def test_batch_norm_without_scale_and_center():
    model = chain(conv(4, 3, name="conv"), bn(scale=False, center=False))
    found = read(model).weights["conv"].batch_norm
    assert found.gamma.tolist() == [1] * 4
    assert found.beta.tolist() == [0] * 4


def test_separable_conv2d_splits_its_weights():
    model = randomize(chain(layers.SeparableConv2D(5, 3, depth_multiplier=2, name="sep"), bn()))
    network = read(model)
    depthwise, pointwise = network.graph.nodes
    assert (depthwise.name, pointwise.name) == ("sep_depthwise", "sep")
    assert (depthwise.batch_norm is None, pointwise.batch_norm is None) == (True, False)
    kernels = model.layers[1].get_weights()
    np.testing.assert_array_equal(network.weights["sep_depthwise"].kernel, kernels[0])
    np.testing.assert_array_equal(network.weights["sep"].kernel, kernels[1])
    np.testing.assert_array_equal(network.weights["sep"].bias, kernels[2])


# -- windows ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "kernel", "strides", "padding"),
    [
        ((8, 8, 3), 3, 1, (1, 1, 1, 1)),
        ((8, 8, 3), 3, 2, (0, 1, 0, 1)),  # asymmetric
        ((9, 8, 3), 3, 2, (1, 1, 0, 1)),
        ((49, 10, 1), (10, 4), 2, (4, 5, 1, 1)),
        ((8, 8, 3), 1, 2, (0, 0, 0, 0)),
        ((2, 1, 3), 5, 1, (2, 2, 2, 2)),
    ],
)
@pytest.mark.parametrize("layer", [layers.Conv2D, layers.MaxPooling2D, layers.AveragePooling2D])
def test_same_padding(layer, shape, kernel, strides, padding):
    filters = [4] if layer is layers.Conv2D else []
    node = only_node(chain(layer(*filters, kernel, strides, padding="same"), shape=shape))
    assert node.window.padding == padding


def test_padding_folds_into_the_window_it_is_read_by():
    def padding(*steps):
        return only_node(chain(*steps)).window.padding

    assert padding(pad(((0, 1), (1, 0))), conv(4, 3)) == (0, 1, 1, 0)
    assert padding(pad(((1, 0), (0, 1))), conv(4, 5, padding="same")) == (3, 2, 2, 3)
    assert padding(pad(1), pad(((1, 0), (0, 1))), conv(4, 5)) == (2, 1, 1, 2)


def test_padding_folds_into_several_windows():
    def build(x):
        x = pad(1)(x)
        return layers.Add()([conv(4, 3)(x), conv(4, 3)(x)])

    assert ops(functional(build)) == ["conv2d", "conv2d", "add"]


def test_global_pool_sees_the_whole_image():
    assert only_node(chain(layers.GlobalAveragePooling2D())).window.kernel == IMAGE[:2]


# -- signs --------------------------------------------------------------------------------------


def test_what_may_be_negative():
    def build(x):
        y = conv(4, 1, activation="relu", name="positive")(x)
        z = conv(4, 1, name="negative")(x)
        layers_after = [
            layers.Add(name="sum_of_positives")([y, y]),
            layers.Add(name="sum")([y, z]),
            layers.MaxPooling2D(1, name="max")(y),
            layers.AveragePooling2D(1, name="average")(z),
            layers.Softmax(name="softmax")(z),
        ]
        return layers.Concatenate(name="all")(layers_after)

    signed = {name for name, spec in graph(functional(build)).tensors.items() if spec.signed}
    assert signed == {"image", "negative", "sum", "average", "all"}


# -- order --------------------------------------------------------------------------------------


def test_order_does_not_depend_on_layers_that_leave_no_trace():
    def names(depth):
        def build(x):
            a, b = conv(4, 1, name="a")(x), conv(4, 1, name="b")(x)
            for _ in range(depth):
                b = layers.Dropout(0.1)(b)
            return layers.Add(name="add")([a, b])

        return [node.name for node in graph(functional(build)).nodes]

    assert names(0) == names(3) == ["a", "b", "add"]


# -- names --------------------------------------------------------------------------------------


def test_names_in_nested_models_stay_unique():
    found = graph(SUPPORTED["nested twice"]())
    names = [node.name for node in found.nodes]
    assert names[0] == "same_name"
    assert names[1].endswith("_same_name")


def test_names_that_tfmix_would_use_itself():
    model = chain(
        pad(((1, 0), (0, 0))),
        conv(4, 3, name="conv"),
        layers.ReLU(name="conv_pad"),
        conv(4, 3, name="image_quantizer"),
    )
    assert graph_of(tfmix.quantize_model(model, None, verbose=0)) == graph(model)


# -- what is refused ----------------------------------------------------------------------------


class Add(layers.Layer):
    """A user's layer with the name of one of tf_keras's."""

    def call(self, x):
        return x[0] * x[1]


def relu_of_a_user(x):
    return tf.nn.leaky_relu(x)


relu_of_a_user.__name__ = "relu"


def _subclassed() -> tf_keras.Model:
    class Subclassed(tf_keras.Model):
        def call(self, x):
            return x

    return Subclassed(name="sub")


def _shared() -> tf_keras.Model:
    layer = conv(3, 1, name="shared")
    return chain(layer, layer)


def _nan() -> tf_keras.Model:
    model = chain(conv(4, 3, name="conv"), bn(name="bn"))
    kernel, bias = model.layers[1].get_weights()
    kernel[0, 0, 0, 0], bias[1] = np.nan, np.inf
    model.layers[1].set_weights([kernel, bias])
    gamma, beta, mean, variance = model.layers[2].get_weights()
    model.layers[2].set_weights([gamma, beta, mean, np.full_like(variance, np.nan)])
    return model


def _negative_variance() -> tf_keras.Model:
    model = chain(bn(name="b"))
    model.layers[1].moving_variance.assign([-1.0] * 3)
    return model


def _half_precision() -> tf_keras.Model:
    return chain(conv(4, 3, dtype="float16", name="c"))


def _two_inputs() -> tf_keras.Model:
    inputs = [tf_keras.Input(IMAGE), tf_keras.Input(IMAGE)]
    return tf_keras.Model(inputs, layers.Add()(inputs), name="two")


def _two_outputs() -> tf_keras.Model:
    inputs = tf_keras.Input(IMAGE)
    return tf_keras.Model(inputs, [conv(4, 3)(inputs), conv(4, 3)(inputs)], name="two")


def _image(**settings):
    """A convolution named c with settings."""
    return lambda: chain(conv(6, 3, name="c", **settings))


#: What is refused -> (model, what each problem must say, in order).
REFUSED = {
    "dilation": (_image(dilation_rate=2), ["c (Conv2D): dilation_rate=(2, 2)", "(1, 1)"]),
    "groups": (_image(groups=3), ["c (Conv2D): groups=3", "allowed: 1"]),
    "channels first": (
        lambda: chain(layers.MaxPooling2D(data_format="channels_first", name="p")),
        ["p (MaxPooling2D): data_format='channels_first'", "channels_last"],
    ),
    "padding of channels first": (
        lambda: chain(pad(1, data_format="channels_first", name="p")),
        ["p (ZeroPadding2D): data_format='channels_first'"],
    ),
    "flatten of channels first": (
        lambda: chain(conv(4, 3), layers.Flatten(data_format="channels_first", name="f")),
        ["f (Flatten): data_format='channels_first'"],
    ),
    "unknown activation": (_image(activation="tanh"), ["activation='tanh'", "linear, relu, relu6"]),
    "user's own relu": (_image(activation=relu_of_a_user), ["activation='relu'", "tf_keras"]),
    "leaky ReLU object": (
        _image(activation=layers.ReLU(negative_slope=0.5)),
        ["c (Conv2D): negative_slope=0.5", "allowed: 0"],
    ),
    "threshold": (lambda: chain(relu(threshold=1.0, name="r")), ["r (ReLU): threshold=1.0"]),
    "max_value": (lambda: chain(relu(max_value=0.0, name="r")), ["r (ReLU): max_value=0.0"]),
    "softmax axis": (lambda: chain(layers.Softmax(1, name="s")), ["s (Softmax): axis=1"]),
    "concatenate axis": (
        lambda: functional(lambda x: layers.Concatenate(axis=1, name="k")([x, x])),
        ["k (Concatenate): axis=1", "-1 or 3 (channels)"],
    ),
    "batch norm axis": (lambda: chain(bn(axis=1, name="b")), ["b (BatchNormalization): axis=[1]"]),
    "broadcast": (
        lambda: functional(
            lambda x: layers.Add(name="a")([x, layers.GlobalMaxPooling2D(keepdims=True)(x)])
        ),
        ["a (Add): input shapes [(8, 9, 3), (1, 1, 3)] differ"],
    ),
    "factor for each row": (
        lambda: functional(
            lambda x: layers.Multiply(name="m")([x, layers.MaxPooling2D((1, 9))(x)])
        ),
        ["m (Multiply): input shapes [(8, 9, 3), (8, 1, 3)]; factors of one shape, and of one"],
    ),
    "one channel times all": (
        lambda: functional(lambda x: layers.Multiply(name="m")([x, conv(1, 1)(x)])),
        ["m (Multiply): input shapes [(8, 9, 3), (8, 9, 1)]", "(1, 1, 3) or (3,), are supported"],
    ),
    "multiply as an operator": (
        lambda: functional(lambda x: x * conv(3, 1)(x)),
        ["the operator 'tf.math.multiply", "use tf_keras.layers.Add, Multiply or another layer"],
    ),
    "constant": (
        lambda: functional(lambda x: layers.Add(name="a")([x, tf.ones((1, *IMAGE))])),
        ["a (Add): reads a constant tensor"],
    ),
    "unknown layer": (
        lambda: chain(layers.LeakyReLU(name="l")),
        ["l (LeakyReLU): layer type LeakyReLU is not supported", "Conv2D"],
    ),
    "user's own Add": (
        lambda: functional(lambda x: Add(name="a")([x, x])),
        [f"a (Add): layer type {Add.__module__}.Add is not supported"],
    ),
    "operator": (lambda: functional(lambda x: x + x), ["TFOpLambda", "use tf_keras.layers.Add"]),
    "operator with two outputs": (
        lambda: functional(lambda x: layers.Add()(tf.split(x, 3, axis=-1))),
        ["tf.split (TFOpLambda): layer type TFOpLambda is not supported"],
    ),
    "rescaling": (lambda: chain(layers.Rescaling(1 / 255, name="r")), ["apply the scaling to"]),
    "output of unknown rank": (
        lambda: chain(layers.Lambda(lambda x: tf.numpy_function(abs, [x], tf.float32), name="l")),
        ["l (Lambda): layer type Lambda is not supported"],
    ),
    "four dimensions": (
        lambda: chain(layers.Reshape((2, 4, 9, 3)), relu(name="r")),
        ["r (ReLU): output shape (2, 4, 9, 3) has 4 dimensions, allowed: 1 to 3"],
    ),
    "training mode": (
        lambda: functional(lambda x: layers.Dropout(0.5, name="d")(conv(2, 1)(x), training=True)),
        ["d (Dropout): is called with training=True"],
    ),
    "shared weights": (_shared, ["layer 'shared' is called more than once"]),
    "half precision": (_half_precision, ["c (Conv2D): dtype float16", "allowed: float32"]),
    "NaN weights": (
        _nan,
        [
            "conv (Conv2D): kernel holds 1 NaN or infinite",
            "conv (Conv2D): bias holds 1 NaN or infinite",
            "bn (BatchNormalization): variance holds 4 NaN or infinite",
        ],
    ),
    "negative variance": (_negative_variance, ["b (BatchNormalization): moving variance"]),
    "undefined input": (
        lambda: chain(conv(4, 3), shape=(None, None, 3)),
        ["image: input shape (None, None, 3) is not fully defined"],
    ),
    "undefined middle": (
        lambda: chain(layers.Lambda(lambda x: x[:, : tf.shape(x)[0]]), relu(name="r")),
        ["Lambda", "r (ReLU): output shape (None, 9, 3) is not fully defined"],
    ),
    "two inputs": (_two_inputs, ["two: 2 inputs and 1 outputs"]),
    "two outputs": (_two_outputs, ["two: 1 inputs and 2 outputs"]),
    "nothing to compute": (lambda: chain(layers.Flatten()), ["has no layers that compute"]),
    "subclassed": (_subclassed, ["sub: a subclassed model", "Sequential and functional"]),
    "subclassed inside": (
        lambda: functional(_subclassed()),
        ["sub (Subclassed): layer type", "Subclassed is not supported"],
    ),
    "Sequential without input": (
        lambda: tf_keras.Sequential([conv(4, 3)], name="seq"),
        ["seq: the Sequential model has no input shape yet"],
    ),
    "no model": (lambda: 5, ["builtins.int is not a Keras model"]),
    "None": (lambda: None, ["builtins.NoneType is not a Keras model"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
    """`check` says it and does not raise; `quantize_model` raises it."""
    build, expected = REFUSED[case]
    model = build()
    text = "\n".join(tfmix.check(model))
    position = 0
    for part in expected:
        assert part in text[position:]
        position = text.index(part, position)
    with pytest.raises(UnsupportedModelError) as error:
        tfmix.quantize_model(model, None, verbose=0)
    assert "\n".join(error.value.problems) == text
    for problem in error.value.problems:
        assert problem in str(error.value)


@pytest.mark.parametrize("shape", [IMAGE, (None, None, 3)])
def test_all_problems_are_listed_at_once(shape):
    """Also behind layers nobody knows, in nested models, and where the input shape is missing."""
    inner = chain(conv(3, 3, dilation_rate=2, name="dilated"), name="inner", shape=shape)

    def build(x):
        x = layers.LeakyReLU(name="leaky")(x)
        x = conv(3, 3, groups=3, activation="tanh", name="grouped")(x)
        return layers.Softmax(1, name="softmax")(inner(x))

    problems = tfmix.check(functional(build, shape))
    names = [problem.split(" ")[0] for problem in problems if not problem.startswith("image")]
    assert names == ["leaky", "grouped", "grouped", "dilated", "softmax"]
    assert len(problems) == len(names) + (None in shape)


def test_a_sequential_model_is_read_once_it_is_built():
    model = tf_keras.Sequential([conv(4, 3), relu()])
    assert len(tfmix.check(model)) == 1
    model.build((None, *IMAGE))
    assert tfmix.check(model) == []


def test_augmentation_does_nothing_at_inference():
    model = chain(
        layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomTranslation(0.1, 0.1),
        layers.RandomZoom(0.1), layers.RandomContrast(0.1), layers.RandomBrightness(0.1),
        conv(4, 3),
    )  # fmt: skip
    assert ops(model) == ["conv2d"]
    assert graph(model).nodes[0].inputs == ("image",)


def test_batch_norm_in_inference_mode_is_read():
    """As transfer learning writes it."""
    model = functional(lambda x: bn()(x, training=False))
    assert tfmix.check(model) == []


# -- what breaks converters ---------------------------------------------------------------------


def test_a_shortcut_without_batch_norm_or_relu_meets_the_other_branch():
    """ResNet: a 1x1 convolution with strides 2, an Add, and only then ReLU."""

    def build(x):
        y = relu()(bn()(conv(8, 3, 2, "same", name="a")(x)))
        y = bn()(conv(8, 3, padding="same", name="b")(y))
        return relu(name="relu")(layers.Add(name="add")([conv(8, 1, 2, "same", name="s")(x), y]))

    nodes = {node.name: node for node in graph(functional(build)).nodes}
    assert list(nodes) == ["a", "s", "b", "add"]
    shortcut, add = nodes["s"], nodes["add"]
    assert (shortcut.batch_norm, shortcut.relu, shortcut.window.strides) == (None, False, (2, 2))
    assert (add.inputs, add.relu, add.output) == (("s", nodes["b"].output), True, "relu")


def test_dropout_between_relu_and_the_next_layer():
    first, second = graph(
        chain(conv(4, 3), bn(), relu(name="r"), layers.Dropout(0.5), conv(2, 1))
    ).nodes
    assert (first.output, second.inputs) == ("r", ("r",))


#: Layers of the real models by kind, from their own description: (model, {op: count}).
REAL_MODELS = [
    (
        "resnet8_cifar10_jpeg_ft",
        {"conv2d": 9, "add": 3, "average_pool": 1, "reshape": 1, "dense": 1, "softmax": 1},
    ),
    (
        "kws_ref_model",
        {
            "conv2d": 5,
            "depthwise_conv2d": 4,
            "average_pool": 1,
            "reshape": 1,
            "dense": 1,
            "softmax": 1,
        },
    ),
    (
        "vww_96",
        {
            "conv2d": 14,
            "depthwise_conv2d": 13,
            "average_pool": 1,
            "reshape": 1,
            "dense": 1,
            "softmax": 1,
        },
    ),
    (
        "str_ww_ref_model",
        {"depthwise_conv2d": 4, "conv2d": 4, "reshape": 1, "dense": 1, "softmax": 1},
    ),
    ("ad01", {"dense": 10}),
]


@pytest.mark.parametrize(("name", "expected"), REAL_MODELS)
def test_real_models_come_down_to_their_kernel_calls(name, expected):
    """All batch norms and ReLUs are fused."""
    found = ops(real_data.model(name))
    assert {op: found.count(op) for op in found} == expected


def test_asymmetric_padding_of_real_models():
    windows = {n.name: n.window for n in graph(real_data.model("kws_ref_model")).nodes}
    assert (windows["conv2d"].kernel, windows["conv2d"].padding) == ((10, 4), (4, 5, 1, 1))
    windows = [n.window for n in graph(real_data.model("vww_96")).nodes]
    assert (windows[0].strides, windows[0].padding) == ((2, 2), (0, 1, 0, 1))


def test_depthwise_without_anything_feeds_the_1x1_of_the_wake_word_model():
    nodes = graph(real_data.model("str_ww_ref_model")).nodes
    bare = [
        (node, after)
        for node, after in zip(nodes, nodes[1:], strict=False)
        if node.op is Op.DEPTHWISE_CONV2D
        and (node.use_bias, node.batch_norm, node.relu) == (False, None, False)
    ]
    assert bare
    for node, after in bare:
        assert (after.op, after.window.kernel, after.inputs) == (Op.CONV2D, (1, 1), (node.output,))


# -- weights ------------------------------------------------------------------------------------


def test_reading_does_not_touch_the_model():
    model = small_cnn()
    before = [w.copy() for w in model.get_weights()]
    network = read(model)
    for weights in network.weights.values():
        assert weights.kernel is None or weights.kernel.dtype == np.float32
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
