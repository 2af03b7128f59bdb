"""What runs when, and which buffers are alive then: all that a memory planner needs to know.

A schedule is not a list of layers. A kernel call is one step, and so is a chain of layers that runs
row by row (`tfmix.ir.stream`): its row buffers are its scratch, and its output may overwrite the
rows of its input that it has consumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from tfmix.errors import TfmixError
from tfmix.ir.graph import Graph, Node, Op, Window
from tfmix.ir.stream import RowLayer, Stream

#: conv2d expands this many pixel columns of K = rows * columns * input_channels values,
#: fully_connected one column of K = input features ...
PIXEL_COLUMNS = 4
#: ... of int16 into scratch, for a dot product that two SIMD lanes can eat ...
COLUMN_VALUE_BYTES = 2
#: ... each padded to a multiple of this many values.
COLUMN_MULTIPLE = 4


@dataclass(frozen=True)
class Step:
    """One call: it reads and writes whole buffers, and needs `scratch` bytes while it runs.

    over: (buffer, D): what it writes may also lie so that this buffer, one of those it reads,
          begins D bytes or more above it: its content is lost. It must not be needed later.
    """

    name: str
    reads: tuple[str, ...]
    writes: str
    scratch: int = 0
    over: tuple[str, int] | None = None


@dataclass(frozen=True)
class Schedule:
    """Steps in execution order, and the bytes of each buffer (packed, before any alignment).

    A buffer that no step writes is there from step 0 (the network's input). `output` must survive
    until the last step. ValueError where steps and buffers contradict each other.
    """

    steps: tuple[Step, ...]
    buffers: Mapping[str, int] = field(hash=False)
    output: str

    def __post_init__(self) -> None:
        written: set[str] = set()
        later = {step.writes for step in self.steps}
        for step in self.steps:
            later_read = [name for name in step.reads if name in later - written]
            if later_read:
                raise ValueError(f"step {step.name!r} reads {later_read} before it is written")
            if step.writes in written:
                raise ValueError(f"step {step.name!r} writes {step.writes!r}, which is taken")
            written.add(step.writes)
        used = written.union(*(step.reads for step in self.steps), {self.output})
        if used != set(self.buffers):
            odd = sorted(used ^ set(self.buffers))
            raise ValueError(f"buffers without a size, or sizes without a use: {odd}")
        for index, step in enumerate(self.steps):
            if step.over is not None:
                over = step.over[0]
                if over not in step.reads or self.lifetimes[over][1] != index:
                    raise ValueError(f"step {step.name!r} writes over {over!r}, which is needed")

    @cached_property
    def lifetimes(self) -> dict[str, tuple[int, int]]:
        """Buffer -> (first, last) step during which it must keep its content, both included."""
        first = dict.fromkeys(self.buffers, 0)
        last = dict.fromkeys(self.buffers, 0)
        for index, step in enumerate(self.steps):
            first[step.writes] = last[step.writes] = index
            for name in step.reads:
                last[name] = index
        last[self.output] = max(len(self.steps) - 1, 0)
        return {name: (first[name], last[name]) for name in self.buffers}

    @cached_property
    def live(self) -> tuple[tuple[str, ...], ...]:
        """For each step, the buffers alive while it runs, in the order of `buffers`."""
        alive: list[list[str]] = [[] for _ in self.steps]
        for name, (first, last) in self.lifetimes.items():
            for buffers in alive[first : last + 1]:
                buffers.append(name)
        return tuple(map(tuple, alive))


#: Columns in scratch, by the value of the Op or the Kernel.
_COLUMNS = {Op.CONV2D.value: PIXEL_COLUMNS, Op.DENSE.value: 1, "fully_connected": 1}


def scratch_bytes(
    kernel: str,
    window: tuple[int, int],
    input_channels: int,
    *,
    strides: tuple[int, int] = (1, 1),
    output: tuple[int, int] = (1, 1),
) -> int:
    """Bytes a kernel needs beside its tensors: 8 * K for conv2d, 2 * K for fully_connected with K
    rounded up to a multiple of 4, `depthwise_scratch_bytes`, nothing for the others.

    kernel: the value of an `Op` or of a `Kernel`; window: (rows, columns), (1, 1) without one;
    strides, output: (rows, columns), of interest for a depthwise convolution only.
    """
    if kernel in (Op.DEPTHWISE_CONV2D.value, Op.BATCH_NORM.value):
        return depthwise_scratch_bytes(window, strides, output)
    columns = _COLUMNS.get(kernel, 0)
    values = window[0] * window[1] * input_channels
    return columns * COLUMN_VALUE_BYTES * -(-values // COLUMN_MULTIPLE) * COLUMN_MULTIPLE


def depthwise_scratch_bytes(
    window: tuple[int, int], strides: tuple[int, int], output: tuple[int, int]
) -> int:
    """What depthwise_conv2d holds of four channels: the input rows under the window and the
    weights, both as pairs of int16, and of wide rows one output row; see
    kernels/src/depthwise_layout.h.

    window, strides, output: (rows, columns). The image lies on its side where that makes its rows
    longer, or else the window's; at most 64 columns are computed at a time.
    """
    (kernel_rows, kernel_columns), (_, stride), (rows, columns) = window, strides, output
    if (columns, kernel_columns) < (rows, kernel_rows):
        kernel_rows, kernel_columns, stride = kernel_columns, kernel_rows, strides[0]
        rows, columns = columns, rows
    wide = (kernel_rows, kernel_columns, stride) == (3, 3, 1) and columns >= 12
    # Windows begin in the low halves of pairs, but where the stride is odd every second one.
    weight_pairs = (kernel_columns + 1) // 2
    if columns > 1 and stride % 2:
        weight_pairs += kernel_columns // 2 + 1
    rotate = rows > 1 and kernel_rows > 1
    weight_copies = 2 if rotate or kernel_rows == kernel_columns == 3 else 1
    columns = min(columns, 64)
    if wide:
        columns = -(-columns // 4) * 4
    ring_pairs = ((columns - 1) * stride + kernel_columns + 1) // 2
    return 16 * kernel_rows * (ring_pairs + weight_copies * weight_pairs) + wide * 4 * columns


def node_scratch_bytes(graph: Graph, node: Node) -> int:
    """`scratch_bytes` of a node of a graph."""
    rows, columns, channels = graph.hwc(node.inputs[0])
    if node.op is Op.DENSE and (rows, columns) != (1, 1):
        # A Dense applied to every pixel runs as the 1x1 convolution it is.
        return scratch_bytes(Op.CONV2D.value, (1, 1), channels)
    window = node.window or Window((1, 1))
    return scratch_bytes(
        node.op.value,
        window.kernel,
        channels,
        strides=window.strides,
        output=graph.hwc(node.output)[:2],
    )


# -- chains -------------------------------------------------------------------------------------

#: What can run row by row: each output row depends on some rows of the inputs, by a kernel that
#: takes them alone. A dense layer runs so where it is a 1x1 convolution.
STREAMABLE_OPS = frozenset(
    {
        Op.CONV2D, Op.DEPTHWISE_CONV2D, Op.DENSE, Op.BATCH_NORM, Op.ADD, Op.RELU, Op.AVERAGE_POOL,
        Op.MAX_POOL,
    }
)  # fmt: skip


def row_layer(
    name: str,
    kernel: str,
    inputs: Sequence[str],
    output: str,
    input_shape: tuple[int, int, int],
    output_shape: tuple[int, int, int],
    window: Window | None,
    band: int = 1,
) -> RowLayer:
    """A node as a layer of a chain. kernel: as in `scratch_bytes`; shapes: (rows, columns,
    channels); band: rows it makes in a call."""
    window = window or Window((1, 1))
    rows, columns, channels = input_shape
    calls = {min(band, output_shape[0]), output_shape[0] % band} - {0}
    whole = kernel == Op.AVERAGE_POOL.value and window.kernel == (rows, columns)
    return RowLayer(
        name,
        tuple(inputs),
        output,
        rows,
        output_shape[0],
        kernel=window.kernel[0],
        stride=window.strides[0],
        pad_top=window.padding[0],
        band=band,
        scratch=max(
            scratch_bytes(
                kernel,
                window.kernel,
                channels,
                strides=window.strides,
                output=(count, output_shape[1]),
            )
            for count in calls
        ),
        sum_channels=channels if whole and not any(window.padding) else 0,
    )


def streamable(graph: Graph, node: Node) -> bool:
    """Whether `node` can be a layer of a chain, as far as it alone is concerned."""
    if node.op not in STREAMABLE_OPS:
        return False
    if node.op is Op.DENSE and graph.hwc(node.inputs[0])[:2] == (1, 1):
        return False
    # Rows of a buffer that is reshaped are others than those that its maker makes.
    return all(graph.hwc(t) == graph.hwc(graph.buffer_of(t)) for t in node.inputs)


def row_layer_of(graph: Graph, node: Node, band: int = 1) -> RowLayer:
    """A node of a graph, `streamable`, as a layer of a chain; tensors by their buffers."""
    return row_layer(
        node.name,
        (Op.CONV2D if node.op is Op.DENSE else node.op).value,
        [graph.buffer_of(tensor) for tensor in node.inputs],
        node.output,
        graph.hwc(node.inputs[0]),
        graph.hwc(node.output),
        node.window,
        band,
    )


def whole_row_bytes(shape: tuple[int, int, int], bits: int) -> int | None:
    """Bytes of one row of a packed (rows, columns, channels) tensor; None where a row does not
    end with a byte."""
    whole, rest = divmod(shape[1] * shape[2] * bits, 8)
    return None if rest else whole


def row_bytes_of(graph: Graph, stream: Stream, bits: Mapping[str, int]) -> dict[str, int]:
    """Bytes of a row of each tensor of a chain. TfmixError where a row does not end with a byte."""
    found = {}
    for tensor in (*stream.inputs, *stream.inner, stream.output):
        shape, b = graph.hwc(tensor), graph.tensor_bits(tensor, bits)
        size = whole_row_bytes(shape, b)
        if size is None:
            raise TfmixError(
                f"chain {stream.layers[0].name}..{stream.layers[-1].name}: a row of {tensor!r}, "
                f"{shape[1]} x {shape[2]} values of {b} bits, does not end with a byte"
            )
        found[tensor] = size
    return found


def check_chains(
    chains: Iterable[Sequence[str]],
    names: Sequence[str],
    reads: Sequence[Sequence[str]],
    writes: Sequence[str],
    output: str,
) -> list[range]:
    """The steps that each chain is, in order. TfmixError unless each is a run of neighbours among
    the steps called `names`, no step is in two, and nothing outside needs what lies within.

    reads, writes: buffers of each step; output: of the network
    """
    index = {name: i for i, name in enumerate(names)}
    found: list[range] = []
    for chain in sorted(chains, key=lambda chain: index.get(chain[0], -1) if chain else -1):
        first = index.get(chain[0], -1) if chain else -1
        run = range(first, first + len(chain))
        if first < 0 or list(chain) != list(names[run.start : run.stop]):
            raise TfmixError(f"chain {list(chain)} is not a run of neighbours among {list(names)}")
        if found and run.start < found[-1].stop:
            raise TfmixError(f"chain {list(chain)} shares steps with another chain")
        inner = {writes[i] for i in run[:-1]}
        outside = {t for i, r in enumerate(reads) if i not in run for t in r} | {output}
        if inner & outside:
            raise TfmixError(
                f"chain {chain[0]}..{chain[-1]}: {sorted(inner & outside)} is needed outside it"
            )
        found.append(run)
    return found


def chain_name(names: Sequence[str]) -> str:
    """What the step of a chain is called: its first and last layer."""
    return f"{names[0]}..{names[-1]}"


def chain_step(
    stream: Stream,
    row_bytes: Mapping[str, int],
    *,
    free_input: bool,
    input_by_rows: bool = False,
) -> Step:
    """The step of a chain. row_bytes: of a row of each of its tensors; free_input: nothing needs
    its first input later; input_by_rows: that is never whole, and no buffer."""
    return Step(
        name=chain_name([layer.name for layer in stream.layers]),
        reads=stream.inputs[1:] if input_by_rows else stream.inputs,
        writes=stream.output,
        scratch=stream.scratch(row_bytes, input_by_rows=input_by_rows),
        over=(
            (stream.inputs[0], stream.distance(row_bytes))
            if free_input and not input_by_rows
            else None
        ),
    )


def merge(
    steps: Sequence[Step],
    buffers: Mapping[str, int],
    output: str,
    network_input: str,
    chains: Iterable[tuple[range, Stream, Mapping[str, int]]],
    *,
    input_by_rows: bool = False,
) -> Schedule:
    """The schedule of single steps with chains in the places of their layers.

    chains: (their steps, the stream, bytes of a row of each of its tensors)
    input_by_rows: the network's input is fed to the first chain row by row, and never whole.
      TfmixError where the first steps are no chain, or others need it.
    """
    runs = {run.start: (run, stream, sizes) for run, stream, sizes in chains}
    merged, index = [], 0
    while index < len(steps):
        if index not in runs:
            merged.append(steps[index])
            index += 1
            continue
        run, stream, sizes = runs[index]
        first = stream.inputs[0]
        later = any(first in step.reads for step in steps[run.stop :])
        by_rows = input_by_rows and index == 0
        if by_rows and (later or first != network_input):
            raise TfmixError(f"input {network_input!r} by rows: it is needed after the first chain")
        merged.append(
            chain_step(
                stream, sizes, free_input=not later and first != output, input_by_rows=by_rows
            )
        )
        index = run.stop
    if input_by_rows and 0 not in runs:
        raise TfmixError(f"input {network_input!r} by rows: no chain begins with it")
    used = {output, *(step.writes for step in merged)}.union(*(step.reads for step in merged))
    return Schedule(
        tuple(merged), {name: size for name, size in buffers.items() if name in used}, output
    )


@lru_cache(maxsize=4096)
def _stream(graph: Graph, names: tuple[str, ...], bands: tuple[int, ...]) -> Stream:
    """The chain of the nodes of these names: it does not depend on bits."""
    nodes = {node.name: node for node in graph.steps}
    return stream_of(graph, [nodes[name] for name in names], dict(zip(names, bands, strict=True)))


def stream_of(graph: Graph, nodes: Sequence[Node], bands: Mapping[str, int]) -> Stream:
    """Nodes of a graph as a chain. bands: node -> rows it makes in a call, where not 1.

    TfmixError, naming the node, where they make none.
    """
    for node in nodes:
        if not streamable(graph, node):
            raise TfmixError(
                f"chain {nodes[0].name}..{nodes[-1].name}: {node.name}, a {node.op.value}, cannot "
                f"run row by row; what can is {sorted(op.value for op in STREAMABLE_OPS)}, on "
                "images that are not reshaped"
            )
    return Stream.of(row_layer_of(graph, node, bands.get(node.name, 1)) for node in nodes)


def schedule(
    graph: Graph,
    activation_bits: Mapping[str, int],
    chains: Iterable[Sequence[str]] = (),
    bands: Mapping[str, int] | None = None,
    *,
    input_by_rows: bool = False,
) -> Schedule:
    """One step per node that runs a kernel, or per chain of them; a reshape leaves no trace, its
    output is its input.

    activation_bits: as `QuantizationPolicy.activation_bits`.
    chains: names of nodes that run row by row, neighbours in `graph.steps`.
    bands: node -> rows it makes in a call, where that is not 1.
    input_by_rows: the network's input arrives row by row, and no buffer holds it.

    TfmixError where chains or input_by_rows do not go with the graph or the bits.
    """
    steps = tuple(
        Step(
            name=node.name,
            reads=tuple(graph.buffer_of(tensor) for tensor in node.inputs),
            writes=graph.buffer_of(node.output),
            scratch=node_scratch_bytes(graph, node),
        )
        for node in graph.steps
    )
    names = [graph.buffer_of(graph.input), *(step.writes for step in steps)]
    buffers = {name: graph.tensor_bytes(name, activation_bits) for name in names}
    output = graph.buffer_of(graph.output)
    runs = check_chains(
        chains, [s.name for s in steps], [s.reads for s in steps], [s.writes for s in steps], output
    )
    bands = bands or {}
    streams = []
    for run in runs:
        chain = tuple(step.name for step in steps[run.start : run.stop])
        streams.append(_stream(graph, chain, tuple(bands.get(name, 1) for name in chain)))
    return merge(
        steps,
        buffers,
        output,
        names[0],
        [
            (run, stream, row_bytes_of(graph, stream, activation_bits))
            for run, stream in zip(runs, streams, strict=True)
        ],
        input_by_rows=input_by_rows,
    )
