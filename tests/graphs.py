"""Networks as `ir.Graph`, built by hand: MobileNets, MNasNet, ResNets, and small ones.

No TensorFlow: what is tested here is structure, and structure is all that a search looks at.
"""

from __future__ import annotations

from tfmix.ir.graph import Graph, Node, Op, TensorSpec, Window, same_padding


class GraphBuilder:
    """Appends nodes one by one; each method returns the name of the tensor it makes.

    A node and its output share a name, as they do where nothing is fused.
    """

    def __init__(self, *input_shape: int) -> None:
        self.tensors = {"input": TensorSpec("input", input_shape, signed=True)}
        self.nodes: list[Node] = []

    def graph(self) -> Graph:
        return Graph("input", self.nodes[-1].output, tuple(self.nodes), dict(self.tensors))

    def _append(self, name, op, inputs, shape, *, signed=False, **fields) -> str:
        self.tensors[name] = TensorSpec(name, tuple(shape), signed)
        self.nodes.append(Node(name, op, tuple(inputs), name, **fields))
        return name

    def _window(self, x, kernel, stride) -> tuple[Window, tuple[int, int]]:
        height, width, _ = self.tensors[x].shape
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        rows, columns = (
            same_padding(height, kernel[0], stride),
            same_padding(width, kernel[1], stride),
        )
        window = Window(kernel, (stride, stride), (*rows, *columns))
        return window, window.output_size(height, width)

    def conv(self, name, x, channels, kernel=1, stride=1, relu=True) -> str:
        window, size = self._window(x, kernel, stride)
        return self._append(
            name, Op.CONV2D, [x], (*size, channels), signed=not relu,
            window=window, relu=relu, batch_norm=f"{name}_bn",
        )  # fmt: skip

    def depthwise(self, name, x, kernel=3, stride=1) -> str:
        window, size = self._window(x, kernel, stride)
        return self._append(
            name, Op.DEPTHWISE_CONV2D, [x], (*size, self.tensors[x].shape[2]),
            window=window, relu=True, batch_norm=f"{name}_bn",
        )  # fmt: skip

    def max_pool(self, name, x, kernel=2, stride=2) -> str:
        window, size = self._window(x, kernel, stride)
        return self._append(
            name, Op.MAX_POOL, [x], (*size, self.tensors[x].shape[2]), window=window
        )

    def global_average_pool(self, name, x) -> str:
        height, width, channels = self.tensors[x].shape
        return self._append(name, Op.AVERAGE_POOL, [x], (channels,), window=Window((height, width)))

    def add(self, name, a, b, relu=False) -> str:
        return self._append(name, Op.ADD, [a, b], self.tensors[a].shape, signed=not relu, relu=relu)

    def multiply(self, name, a, b) -> str:
        return self._append(name, Op.MULTIPLY, [a, b], self.tensors[a].shape)

    def lookup(self, name, x, function="sigmoid") -> str:
        return self._append(name, Op.LOOKUP, [x], self.tensors[x].shape, function=function)

    def concatenate(self, name, *inputs) -> str:
        height, width, _ = self.tensors[inputs[0]].shape
        channels = sum(self.tensors[x].shape[2] for x in inputs)
        return self._append(name, Op.CONCATENATE, inputs, (height, width, channels))

    def relu(self, name, x) -> str:
        return self._append(name, Op.RELU, [x], self.tensors[x].shape, relu=True)

    def reshape(self, name, x, *shape) -> str:
        return self._append(name, Op.RESHAPE, [x], shape)

    def dense(self, name, x, features, relu=False) -> str:
        shape = (*self.tensors[x].shape[:-1], features)
        return self._append(name, Op.DENSE, [x], shape, signed=not relu, relu=relu, use_bias=True)

    def softmax(self, name, x) -> str:
        return self._append(name, Op.SOFTMAX, [x], self.tensors[x].shape)


def mobilenet_v1(alpha: float = 1.0, resolution: int = 224, classes: int = 1000) -> Graph:
    """28 weighted layers: conv1, 13 x (dw, pw), the classifier (Howard et al. 2017, table 1)."""
    b = GraphBuilder(resolution, resolution, 3)
    x = b.conv("conv1", "input", int(32 * alpha), kernel=3, stride=2)
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    blocks += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    for i, (channels, stride) in enumerate(blocks, start=1):
        x = b.depthwise(f"dw{i}", x, stride=stride)
        x = b.conv(f"pw{i}", x, int(channels * alpha))
    x = b.global_average_pool("pool", x)
    x = b.dense("classifier", x, classes)
    b.softmax("softmax", x)
    return b.graph()


def mobilenet_v2(alpha: float = 1.0, resolution: int = 224, classes: int = 1000) -> Graph:
    """Inverted residuals with linear bottlenecks (Sandler et al. 2018, table 2)."""

    def width(channels: float) -> int:
        rounded = max(8, int(channels + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * channels else rounded

    b = GraphBuilder(resolution, resolution, 3)
    x = b.conv("conv1", "input", width(32 * alpha), kernel=3, stride=2)
    block = 0
    for expansion, channels, repeats, first_stride in [
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
        (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ]:  # fmt: skip
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            skip, inside = x, b.tensors[x].shape[2] * expansion
            if expansion > 1:
                x = b.conv(f"expand{block}", x, inside)
            x = b.depthwise(f"dw{block}", x, stride=stride)
            x = b.conv(f"project{block}", x, width(channels * alpha), relu=False)
            if repeat > 0:
                x = b.add(f"add{block}", skip, x)
            block += 1
    x = b.conv("conv2", x, max(1280, width(1280 * alpha)))
    x = b.global_average_pool("pool", x)
    x = b.dense("classifier", x, classes)
    b.softmax("softmax", x)
    return b.graph()


def mnasnet_a1(resolution: int = 224, classes: int = 1000) -> Graph:
    """Inverted residuals, some with squeeze and excitation (Tan et al. 2019, figure 7)."""
    b = GraphBuilder(resolution, resolution, 3)
    x = b.conv("conv1", "input", 32, kernel=3, stride=2)
    x = b.conv("project0", b.depthwise("dw0", x), 16, relu=False)
    block = 1
    for expansion, kernel, squeeze, channels, repeats, first_stride in [
        (6, 3, False, 24, 2, 2), (3, 5, True, 40, 3, 2), (6, 3, False, 80, 4, 2),
        (6, 3, True, 112, 2, 1), (6, 5, True, 160, 3, 2), (6, 3, False, 320, 1, 1),
    ]:  # fmt: skip
        for repeat in range(repeats):
            skip, before = x, b.tensors[x].shape[2]
            x = b.conv(f"expand{block}", x, before * expansion)
            x = b.depthwise(f"dw{block}", x, kernel, stride=1 if repeat else first_stride)
            if squeeze:
                gate = b.global_average_pool(f"squeeze{block}", x)
                gate = b.dense(f"reduce{block}", gate, before // 4, relu=True)
                gate = b.dense(f"excite{block}", gate, before * expansion)
                x = b.multiply(f"gate{block}", x, b.lookup(f"sigmoid{block}", gate))
            x = b.conv(f"project{block}", x, channels, relu=False)
            if repeat > 0:
                x = b.add(f"add{block}", skip, x)
            block += 1
    x = b.conv("conv2", x, 1280)
    x = b.global_average_pool("pool", x)
    x = b.dense("classifier", x, classes)
    b.softmax("softmax", x)
    return b.graph()


def resnet(blocks_per_stage: int = 1, resolution: int = 32, classes: int = 10) -> Graph:
    """Basic blocks, three stages of 16, 32, 64 channels (He et al. 2016): 1 makes ResNet-8."""
    b = GraphBuilder(resolution, resolution, 3)
    x = b.conv("conv1", "input", 16, kernel=3)
    for stage, channels in enumerate((16, 32, 64)):
        for block in range(blocks_per_stage):
            tag, stride = f"{stage}_{block}", 2 if stage and not block else 1
            y = b.conv(f"a{tag}", x, channels, kernel=3, stride=stride)
            y = b.conv(f"b{tag}", y, channels, kernel=3, relu=False)
            if stride == 2:
                x = b.conv(f"shortcut{tag}", x, channels, stride=2, relu=False)
            x = b.add(f"add{tag}", x, y, relu=True)
    x = b.global_average_pool("pool", x)
    x = b.dense("classifier", x, classes)
    b.softmax("softmax", x)
    return b.graph()


def resnet50(resolution: int = 224) -> Graph:
    """Bottleneck blocks with projection shortcuts and a max pool in front (He et al. 2016)."""
    b = GraphBuilder(resolution, resolution, 3)
    x = b.conv("conv1", "input", 64, kernel=7, stride=2)
    x = b.max_pool("max_pool", x, kernel=3)
    for stage, (channels, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for block in range(blocks):
            tag, stride = f"{stage}_{block}", 2 if stage and not block else 1
            skip = b.conv(f"shortcut{tag}", x, 4 * channels, 1, stride, False) if not block else x
            y = b.conv(f"a{tag}", x, channels, stride=stride)
            y = b.conv(f"b{tag}", y, channels, kernel=3)
            y = b.conv(f"c{tag}", y, 4 * channels, relu=False)
            x = b.add(f"add{tag}", skip, y, relu=True)
    x = b.global_average_pool("pool", x)
    b.dense("classifier", x, 1000)
    return b.graph()


def dense_block(layers: int = 4, resolution: int = 16, growth: int = 12) -> Graph:
    """DenseNet's pattern: each layer reads the concatenation of all before it."""
    b = GraphBuilder(resolution, resolution, 3)
    x = b.conv("conv1", "input", 2 * growth, kernel=3)
    for i in range(layers):
        y = b.conv(f"conv_a{i}", x, 4 * growth)
        y = b.conv(f"conv_b{i}", y, growth, kernel=3)
        x = b.concatenate(f"concat{i}", x, y)
    x = b.global_average_pool("pool", x)
    b.dense("classifier", x, 10)
    return b.graph()


def chain(*channels: int, resolution: int = 8, kernel: int = 3) -> Graph:
    """Convolutions one after the other: c0, c1, ..."""
    b = GraphBuilder(resolution, resolution, 3)
    x = "input"
    for i, count in enumerate(channels):
        x = b.conv(f"c{i}", x, count, kernel=kernel)
    return b.graph()


def residual_sums(graph):
    """Pins for a search: both sides of each sum and the sum itself keep their 8 bits."""
    adds = [node for node in graph.nodes if node.name.startswith("add")]
    tensors = {graph.quantizer_of(t) for node in adds for t in (*node.inputs, node.output)}
    return {"activations": dict.fromkeys(tensors, 8)}
