"""IntegerNetwork -> a C network: a header, a source file, and the list of kernel variants it needs.

The source is what a person would write by hand: constants and parameters layer by layer, one arena
laid out by the memory plan, and one kernel call after the other. docs/c-export.md is the manual.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TypeAlias

import numpy as np

from tfmix.errors import TfmixError
from tfmix.export.files import write_all
from tfmix.integer import abi
from tfmix.integer.lower import KernelCall, lower
from tfmix.integer.model import BINARY_KERNELS, IntegerNetwork, IntegerNode, Kernel
from tfmix.integer.runtime import BufferSizes, StreamSizes, prepare, prepare_stream
from tfmix.integer.schedule import schedule_of, tensor_bytes
from tfmix.integer.stream import KIND_NAMES, StreamCall, execution_order, lower_chain
from tfmix.integer.validate import check_model
from tfmix.ir.graph import FIXED_BITS
from tfmix.ir.schedule import Schedule
from tfmix.policy.cost.arena import ALIGNMENT, ArenaPlan, plan
from tfmix.version import __version__

#: What a network may be called: its files, functions and macros begin with this.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_BYTES_PER_LINE = 16
_LINE = 100
_INT32_MIN = -(1 << 31)


def export_c_network(
    model: IntegerNetwork,
    directory: str | os.PathLike[str],
    name: str = "model",
    *,
    input_by_rows: bool = False,
) -> tuple[Path, ...]:
    """Writes the files of `c_sources` into `directory`, all of them or none; returns their paths.

    The directory is made where its parent is there; older files of these names are replaced.
    TfmixError if the model cannot be written, or the files not.
    """
    sources = c_sources(model, name, input_by_rows=input_by_rows)
    return write_all(Path(directory), {file: text.encode() for file, text in sources.items()})


def c_sources(
    model: IntegerNetwork, name: str = "model", *, input_by_rows: bool = False
) -> dict[str, str]:
    """File name -> text: `<name>.h`, `<name>.c` and `<name>_variants.inc`. Deterministic.

    input_by_rows: the input arrives row by row and is never whole, see docs/c-export.md.

    TfmixError if `name` is not a C identifier, the model is not valid, its input or output has not
    8 bits, a kernel refuses its parameters or wants more scratch than was planned, or the input is
    to come by rows and the network does not begin with a chain that takes it so.
    """
    _check_name(name)
    check_model(model)
    for tensor in (model.input, model.output):
        bits = model.tensors[tensor].quant.bits
        if bits != FIXED_BITS:
            raise TfmixError(f"{tensor!r} has {bits} bits; input and output have {FIXED_BITS}")
    network = _Network.of(model, name, input_by_rows)
    return {
        f"{name}.h": _header(network),
        f"{name}.c": _source(network),
        f"{name}_variants.inc": _variants(network),
    }


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise TfmixError(
            f"name {name!r} is not a C identifier: a letter, then letters, digits and '_', "
            "63 at most"
        )


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


# -- the network, as the text needs it ----------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """One layer. identifier: what its definitions begin with; title: what comments call it."""

    identifier: str
    title: str
    node: IntegerNode
    call: KernelCall

    @property
    def params(self) -> abi._Struct:
        return abi.PARAMS[self.call.kernel].from_buffer_copy(self.call.params)

    @property
    def items(self) -> tuple[abi.ConcatenateInput, ...]:
        """concatenate: what follows the parameters; nothing for the other kernels."""
        if self.call.kernel is not Kernel.CONCATENATE:
            return ()
        tail = self.call.params[len(bytes(self.params)) :]
        return tuple((abi.ConcatenateInput * len(self.call.inputs)).from_buffer_copy(tail))


@dataclass(frozen=True)
class _Single:
    """A layer that runs by itself. sizes.scratch is what the plan has set aside, at least what is
    needed."""

    number: int
    layer: _Layer
    sizes: BufferSizes
    scratch_offset: int | None

    @property
    def layers(self) -> tuple[_Layer, ...]:
        return (self.layer,)

    @property
    def scratch(self) -> int:
        return self.sizes.scratch


@dataclass(frozen=True)
class _Chain:
    """Layers that run row by row."""

    number: int
    layers: tuple[_Layer, ...]
    call: StreamCall
    sizes: StreamSizes
    scratch_offset: int

    @property
    def identifier(self) -> str:
        return f"chain{self.number}"

    @property
    def scratch(self) -> int:
        return self.sizes.scratch


_Step: TypeAlias = _Single | _Chain


@dataclass(frozen=True)
class _Network:
    """steps: as in the schedule, numbered from 1."""

    name: str
    model: IntegerNetwork
    schedule: Schedule
    plan: ArenaPlan
    steps: tuple[_Step, ...]
    input_by_rows: bool

    @classmethod
    def of(cls, model: IntegerNetwork, name: str, input_by_rows: bool) -> _Network:
        schedule = schedule_of(model, input_by_rows=input_by_rows)
        arena = plan(schedule)
        steps: list[_Step] = []
        runs = zip(execution_order(model), schedule.steps, strict=True)
        for number, (run, step) in enumerate(runs, 1):
            offset = arena.scratch_offsets.get(step.name)
            if isinstance(run, IntegerNode):
                steps.append(_single(model, run, number, step.scratch, offset))
            else:
                by_rows = input_by_rows and number == 1
                steps.append(_chain(model, run, number, step.scratch, offset, by_rows))
        return cls(name, model, schedule, arena, tuple(steps), input_by_rows)

    @property
    def layers(self) -> tuple[_Layer, ...]:
        return tuple(layer for step in self.steps for layer in step.layers)

    @property
    def chains(self) -> tuple[_Chain, ...]:
        return tuple(step for step in self.steps if isinstance(step, _Chain))

    @property
    def prefix(self) -> str:
        """Of macros."""
        return self.name.upper()

    @property
    def names(self) -> dict[str, object]:
        """What every template needs."""
        return {
            "name": self.name,
            "PREFIX": self.prefix,
            "version": __version__,
            "alignment": ALIGNMENT,
        }

    @property
    def constant_bytes(self) -> int:
        """Constants, each from an aligned address, and parameter structs."""
        total = sum(len(chain.call.records) for chain in self.chains)
        for step in self.steps:
            for layer in step.layers:
                total += -(-len(layer.call.constants) // ALIGNMENT) * ALIGNMENT
                total += len(layer.call.params) if isinstance(step, _Single) else 0
        return total

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(sorted({layer.call.variant for layer in self.layers}))

    def address(self, tensor: str) -> str:
        return f"{self.name}_arena + {self.plan.offsets[tensor]}"


def _single(
    model: IntegerNetwork, node: IntegerNode, number: int, scratch: int, offset: int | None
) -> _Single:
    call = lower(node, model.tensors)
    needed = prepare(call)
    if needed.scratch > scratch:
        raise TfmixError(
            f"{node.name}: {call.variant} needs {needed.scratch} bytes of scratch, "
            f"{scratch} are planned"
        )
    sizes = BufferSizes(needed.inputs, needed.constants, needed.output, scratch)
    return _Single(number, _Layer(f"layer{number}", str(number), node, call), sizes, offset)


def _chain(
    model: IntegerNetwork,
    names: tuple[str, ...],
    number: int,
    scratch: int,
    offset: int,
    by_rows: bool,
) -> _Chain:
    call = lower_chain(model, names, input_by_rows=by_rows)
    sizes = prepare_stream(call)
    if sizes.scratch > scratch:
        raise TfmixError(
            f"chain {call.name}: {sizes.scratch} bytes of scratch are needed, {scratch} are planned"
        )
    nodes = {node.name: node for node in model.nodes}
    layers = tuple(
        _Layer(f"chain{number}_layer{i}", f"{number}.{i}", nodes[c.node], c)
        for i, c in enumerate(call.calls, 1)
    )
    return _Chain(number, layers, call, sizes, offset)


# -- the header ---------------------------------------------------------------------------------

_HEADER = Template("""\
/* $name: an integer-only network, written by tfmix $version. Do not edit.
 *
 *   input   $input_shape, uint8: q stands for $input_scale * (q - $input_zero_point)
 *   output  $output_shape, uint8: q stands for $output_scale * (q - $output_zero_point)
 *   RAM     $arena bytes: the arena, which holds $held and all between
 *   flash   $constants bytes of weights and parameters, and beside them the code of the kernels:
 *
$variants
 *
 *     if (${name}_init() != TFMIX_OK) stop();    once
$usage
 *     ${name}_invoke();
 *     use(${name}_output());
 *
 * One arena serves all calls: use the network from one thread at a time.
 */
#ifndef ${PREFIX}_H_
#define ${PREFIX}_H_

#include <stdint.h>

#include "tfmix/kernels.h"

#define ${PREFIX}_ARENA_BYTES $arena
#define ${PREFIX}_CONSTANT_BYTES $constants
$input_sizes
#define ${PREFIX}_OUTPUT_BYTES $output_bytes

/* An element q stands for SCALE * (q - ZERO_POINT). Shapes are rows, columns, channels. */
#define ${PREFIX}_INPUT_SHAPE {$input_dimensions}
#define ${PREFIX}_INPUT_SCALE $input_scale
#define ${PREFIX}_INPUT_ZERO_POINT $input_zero_point
#define ${PREFIX}_OUTPUT_SHAPE {$output_dimensions}
#define ${PREFIX}_OUTPUT_SCALE $output_scale
#define ${PREFIX}_OUTPUT_ZERO_POINT $output_zero_point

#ifdef __cplusplus
extern "C" {
#endif

/* Checks every layer against the kernels that are linked; call it once, at start-up. TFMIX_OK, or
 * what a kernel says of its parameters, or TFMIX_BAD_SHAPE where a kernel wants other buffers than
 * the network has: then the two are of different versions. Does not touch the arena. */
tfmix_status ${name}_init(void);

$input_functions

/* Computes the output$from_input. */
void ${name}_invoke(void);

/* The output, which stays from invoke until $until. */
const uint8_t* ${name}_output(void);

/* The arena. Where ${PREFIX}_USER_ARENA is defined it is yours to define, for instance to share it:
 * ${PREFIX}_ARENA_BYTES bytes at a multiple of $alignment. */
extern uint8_t ${name}_arena[${PREFIX}_ARENA_BYTES];

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* ${PREFIX}_H_ */
""")


#: What differs between an input that is whole and one that comes row by row.
_WHOLE = {
    "held": "input, output",
    "usage": " *     memcpy(${name}_input(), image, ${PREFIX}_INPUT_BYTES);",
    "input_sizes": "#define ${PREFIX}_INPUT_BYTES $input_bytes",
    "input_functions": """\
/* Where the input goes. invoke overwrites it: write it before each. */
uint8_t* ${name}_input(void);""",
    "from_input": " from the input",
    "until": "the input is written",
}
_BY_ROWS = {
    "held": "rows of the input, output",
    "usage": """\
 *     ${name}_begin();
 *     for (int i = 0; i < ${PREFIX}_INPUT_ROWS; ++i) ${name}_feed_row(camera_row(i));""",
    "input_sizes": """\
#define ${PREFIX}_INPUT_ROWS $input_rows
#define ${PREFIX}_INPUT_ROW_BYTES $input_row_bytes""",
    "input_functions": """\
/* Begins a new input: call it before the first row. */
void ${name}_begin(void);

/* Takes in the next row of the input, of ${PREFIX}_INPUT_ROW_BYTES bytes, and computes what can be
 * computed from the rows so far. The row may then be overwritten. All rows from the first to the
 * last must be fed before invoke. */
void ${name}_feed_row(const uint8_t* row);""",
    "from_input": ", once the input has been fed",
    "until": "begin",
}


def _header(network: _Network) -> str:
    model = network.model
    values: dict[str, object] = {}
    for what, name, shape in (
        ("input", model.input, model.input_shape),
        ("output", model.output, model.output_shape),
    ):
        quant = model.tensors[name].quant
        values[f"{what}_shape"] = _shape(shape)
        values[f"{what}_dimensions"] = ", ".join(map(str, shape))
        values[f"{what}_bytes"] = tensor_bytes(model.tensors[name])
        values[f"{what}_scale"] = _float(quant.scale)
        values[f"{what}_zero_point"] = quant.zero_point
    if network.input_by_rows:
        call = network.chains[0].call
        values["input_row_bytes"] = call.row_bytes
        values["input_rows"] = int(values["input_bytes"]) // call.row_bytes
    texts = _BY_ROWS if network.input_by_rows else _WHOLE
    values |= {
        key: Template(text).substitute(values, **network.names) for key, text in texts.items()
    }
    return _HEADER.substitute(
        values,
        **network.names,
        arena=network.plan.total,
        constants=network.constant_bytes,
        variants="\n".join(f" *     tfmix_{variant}" for variant in network.variants),
    )


def _float(value: float) -> str:
    """A C float literal that reads back as the same float32."""
    text = str(np.float32(value))
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


# -- the source ---------------------------------------------------------------------------------

_SOURCE_HEAD = Template("""\
/* $name: an integer-only network, written by tfmix $version. Do not edit. */
#include "$name.h"

#include <stddef.h>
$stream_include
/* Where things go: define these as attributes that name a section. */
#ifndef ${PREFIX}_ARENA_ATTRIBUTES
#define ${PREFIX}_ARENA_ATTRIBUTES
#endif
#ifndef ${PREFIX}_CONSTANT_ATTRIBUTES
#define ${PREFIX}_CONSTANT_ATTRIBUTES
#endif

#if defined(__GNUC__)
#define ${PREFIX}_ALIGNED __attribute__((aligned($alignment)))
#elif defined(__cplusplus)
#define ${PREFIX}_ALIGNED alignas($alignment)
#else
#define ${PREFIX}_ALIGNED _Alignas($alignment)
#endif

/* Called after each layer, with its number: to measure, or to feed a watchdog. */
#ifndef ${PREFIX}_AFTER_LAYER
#define ${PREFIX}_AFTER_LAYER(layer_) ((void)0)
#endif
""")

_CHECK = """\
/* What a kernel has found: `status`, or whether the buffers it wants are those of the plan. */
static tfmix_status check(tfmix_status status, const tfmix_sizes* wanted,
                          const tfmix_sizes* planned) {
  if (status != TFMIX_OK) return status;
  return wanted->input == planned->input && wanted->second_input == planned->second_input &&
                 wanted->constants == planned->constants && wanted->output == planned->output &&
                 wanted->scratch <= planned->scratch
             ? TFMIX_OK
             : TFMIX_BAD_SHAPE;
}
"""


def _source(network: _Network) -> str:
    stream_include = '\n#include "tfmix/stream.h"\n' if network.chains else ""
    parts = [_SOURCE_HEAD.substitute(network.names, stream_include=stream_include)]
    parts += [_text(_step(network, step)) for step in network.steps]
    parts += [_text(_arena(network))]
    if network.chains:
        parts += [_text(_streams(network))]
    if len(network.chains) < len(network.steps):
        parts += [_CHECK]
    if network.chains:
        parts += [_CHECK_CHAIN]
    parts += [_text(_init(network))]
    parts += [_text(_accessors(network)), _text(_invoke(network))]
    return "\n".join(parts)


def _step(network: _Network, step: _Step) -> Iterator[str]:
    if isinstance(step, _Single):
        yield from _layer(network, step)
    else:
        yield from _chain_layers(network, step)


def _constants(network: _Network, layer: _Layer) -> Iterator[str]:
    yield from _layer_comment(network, layer)
    constants = layer.call.constants
    if constants:
        declaration = f"static const uint8_t {layer.identifier}_constants[{len(constants)}]"
        yield f"{network.prefix}_ALIGNED {network.prefix}_CONSTANT_ATTRIBUTES {declaration} = {{"
        yield from _bytes(constants)
        yield "};"


def _layer(network: _Network, step: _Single) -> Iterator[str]:
    """Constants, parameters and, for init, the bits and sizes of one layer."""
    layer = step.layer
    call, params, identifier = layer.call, layer.params, layer.identifier
    attributes = f"{network.prefix}_CONSTANT_ATTRIBUTES"
    yield from _constants(network, layer)
    yield f"{attributes} static const {_params_type(call.kernel)} {identifier}_params = {{"
    yield from _fields(params)
    yield "};"
    if layer.items:
        count = len(layer.items)
        yield (
            f"{attributes} static const tfmix_concatenate_input {identifier}_inputs[{count}] = {{"
        )
        for item in layer.items:
            yield f"    {{{', '.join(_int32(value) for value in item.values().values())}}},"
        yield "};"
    variant = abi.parse_variant(call.variant)
    bits = (variant.a, variant.b, variant.weight_bits, variant.output_bits, variant.per_channel)
    yield f"static const tfmix_variant {identifier}_variant = {_braces(bits)};"
    sizes, second = step.sizes, 0
    first = sum(sizes.inputs)
    if call.kernel in BINARY_KERNELS:
        first, second = sizes.inputs
    numbers = (first, second, sizes.constants, sizes.output, sizes.scratch)
    yield f"static const tfmix_sizes {identifier}_sizes = {_braces(numbers)};"


def _chain_layers(network: _Network, chain: _Chain) -> Iterator[str]:
    """Constants of a chain's layers, and what the executor reads of them."""
    for layer in chain.layers:
        yield from _constants(network, layer)
    attributes = f"{network.prefix}_CONSTANT_ATTRIBUTES"
    name = f"{chain.identifier}_layers[{len(chain.layers)}]"
    yield f"/* {chain.number}: {_words(chain.call.name)}: row by row */"
    yield f"{attributes} static const tfmix_stream_layer {name} = {{"
    for layer, record in zip(chain.layers, chain.call.layers, strict=True):
        values = {key: getattr(record, key) for key, _ in record._fields_}
        params = ", ".join(map(_int32, values.pop("params")))
        kernel, *variant, rows, band, buffer_rows, first, second = values.values()
        yield f"    {{{KIND_NAMES[kernel]}, /* {layer.title} */"
        yield f"     {_braces(variant)},"
        yield f"     {rows}, {band}, {buffer_rows}, {first}, {second},"
        yield f"     {{{{{params}}}}}}},"
    yield "};"


def _streams(network: _Network) -> Iterator[str]:
    """What the executor is given for each chain, and the sizes that init compares."""
    entries = sorted({entry for chain in network.chains for entry in chain.call.kernel_entries})
    yield "/* The kernels of the chains. */"
    yield "static const tfmix_stream_kernel kernels[] = {"
    yield from (f"    {entry}" for entry in entries)
    yield "};"
    for chain in network.chains:
        call, identifier = chain.call, chain.identifier
        counts = [len(call.layers), len(call.inputs), call.input_rows]
        fields = [f"(const uint8_t*){identifier}_layers", *map(str, counts), "kernels"]
        fields.append(str(len(entries)))
        yield from _wrapped(f"static const tfmix_stream {identifier} = {{", fields, "};")
        operands = [network.address(tensor) for tensor in call.inputs[call.input_rows > 0 :]]
        if call.input_rows:
            operands.insert(0, "NULL")
        operands += [f"{x.identifier}_constants" for x in chain.layers if x.call.constants]
        count = len(operands)
        opening = f"static const uint8_t* const {identifier}_operands[{count}] = {{"
        yield from _wrapped(opening, operands, "};")
        opening = f"static const int32_t {identifier}_operand_sizes[{count}] = {{"
        yield from _wrapped(opening, [str(size) for size in chain.sizes.operands], "};")
        sizes = (chain.sizes.output, chain.sizes.scratch, chain.sizes.distance)
        yield f"static const tfmix_stream_sizes {identifier}_sizes = {_braces(sizes)};"


_CHECK_CHAIN = """\
/* The same for a chain: `found` has room for the sizes of its operands. */
static tfmix_status check_chain(const tfmix_stream* chain, const int32_t* operand_sizes,
                                int32_t operand_count, const tfmix_stream_sizes* planned,
                                int32_t* found) {
  tfmix_stream_sizes wanted;
  const tfmix_status status = tfmix_stream_prepare(chain, found, operand_count, &wanted);
  if (status != TFMIX_OK) return status;
  for (int32_t i = 0; i < operand_count; ++i) {
    if (found[i] != operand_sizes[i]) return TFMIX_BAD_SHAPE;
  }
  return wanted.output == planned->output && wanted.scratch <= planned->scratch &&
                 wanted.distance <= planned->distance
             ? TFMIX_OK
             : TFMIX_BAD_SHAPE;
}
"""


def _layer_comment(network: _Network, layer: _Layer) -> Iterator[str]:
    node, tensors = layer.node, network.model.tensors
    yield f"/* {layer.title}: {_words(node.name)}: {layer.call.variant}"
    for tensor, shape in zip(node.inputs, node.input_shapes, strict=True):
        yield f" *   reads   {_shape(shape)}, {tensors[tensor].quant.bits} bits: {_words(tensor)}"
    output = f"{_shape(node.output_shape)}, {tensors[node.output].quant.bits} bits"
    yield f" *   writes  {output}: {_words(node.output)}"
    if node.window is not None:
        window = node.window
        yield (
            f" *   window  {_shape(window.kernel)}, stride {_shape(window.strides)}, padding "
            "{} above, {} below, {} left, {} right".format(*window.padding)
        )
    if node.weights is not None:
        weights = node.weights
        points = "one zero point per channel" if weights.per_channel else "one zero point"
        yield f" *   weights {weights.values.size:,} of {weights.bits} bits, {points}"
    yield " */"


def _params_type(kernel: Kernel) -> str:
    stem = "conv" if kernel in (Kernel.CONV2D, Kernel.DEPTHWISE_CONV2D) else kernel.value
    return f"tfmix_{stem}_params"


def _fields(params: abi._Struct) -> Iterator[str]:
    for field, value in params.values().items():
        yield f"    {_int32(value)}, /* {field} */"


def _int32(value: int) -> str:
    """A C constant: -2147483648 would be the negative of a number that int32 does not hold."""
    return "INT32_MIN" if value == _INT32_MIN else str(value)


def _braces(values: Iterable[int | None]) -> str:
    return "{" + ", ".join(str(int(value or 0)) for value in values) + "}"


_HEX = tuple(f"0x{value:02x}" for value in range(256))


def _bytes(data: bytes) -> Iterator[str]:
    for start in range(0, len(data), _BYTES_PER_LINE):
        line = ", ".join(_HEX[value] for value in data[start : start + _BYTES_PER_LINE])
        yield f"    {line},"


def _words(name: str) -> str:
    """A name from the model as it may stand in a C comment."""
    return re.sub(r"[^A-Za-z0-9_./: -]", "_", name)


def _arena(network: _Network) -> Iterator[str]:
    name, prefix = network.name, network.prefix
    yield "/* The arena, by the memory plan:"
    yield " *"
    yield f" *   {'offset':>9} {'bytes':>9}  {'layers':<9} content"
    for offset, size, first, last, content in sorted(_blocks(network)):
        layers = f"{first}-{last}" if first != last else str(first)
        yield f" *   {offset:>9} {size:>9}  {layers:<9} {content}"
    yield " */"
    yield f"#ifndef {prefix}_USER_ARENA"
    yield f"{prefix}_ALIGNED {prefix}_ARENA_ATTRIBUTES uint8_t {name}_arena[{prefix}_ARENA_BYTES];"
    yield "#endif"


def _blocks(network: _Network) -> Iterator[tuple[int, int, int, int, str]]:
    """(offset, bytes, first layer, last layer, what) of all that has a place in the arena."""
    for tensor, (first, last) in network.schedule.lifetimes.items():
        size, offset = network.schedule.buffers[tensor], network.plan.offsets[tensor]
        yield offset, size, first + 1, last + 1, _words(tensor)
    for step in network.steps:
        if step.scratch_offset is not None:
            yield step.scratch_offset, step.scratch, step.number, step.number, "scratch"


def _init(network: _Network) -> Iterator[str]:
    most_inputs = max((len(layer.items) for layer in network.layers), default=0)
    yield f"tfmix_status {network.name}_init(void) {{"
    yield "  tfmix_status status;"
    if len(network.chains) < len(network.steps):
        yield "  tfmix_sizes sizes;"
    if most_inputs:
        yield f"  int32_t input_sizes[{most_inputs}];"
    if network.chains:
        most_operands = max(len(chain.sizes.operands) for chain in network.chains)
        yield f"  int32_t operand_sizes[{most_operands}];"
    for step in network.steps:
        if isinstance(step, _Chain):
            identifier = step.identifier
            arguments = [f"&{identifier}", f"{identifier}_operand_sizes"]
            arguments += [str(len(step.sizes.operands)), f"&{identifier}_sizes", "operand_sizes"]
            yield from _wrapped("  status = check_chain(", arguments)
            yield "  if (status != TFMIX_OK) return status;"
            continue
        layer = step.layer
        identifier = layer.identifier
        arguments = [f"&{identifier}_params", f"&{identifier}_variant", "&sizes"]
        if layer.items:
            arguments[1:1] = [f"{identifier}_inputs", str(len(layer.items))]
            arguments[-1:-1] = ["input_sizes"]
        yield from _wrapped(f"  status = tfmix_{layer.call.kernel.value}_prepare(", arguments)
        yield f"  status = check(status, &sizes, &{identifier}_sizes);"
        yield "  if (status != TFMIX_OK) return status;"
    yield "  return TFMIX_OK;"
    yield "}"


def _accessors(network: _Network) -> Iterator[str]:
    name, model = network.name, network.model
    if network.input_by_rows:
        chain = network.chains[0]
        yield f"void {name}_begin(void) {{"
        yield f"  tfmix_stream_begin(&{chain.identifier}, {_scratch(network, chain)});"
        yield "}"
        yield ""
        yield f"void {name}_feed_row(const uint8_t* row) {{"
        arguments = [f"&{chain.identifier}", "row", f"{chain.identifier}_operands"]
        arguments += [network.address(chain.call.output), _scratch(network, chain)]
        yield from _wrapped("  tfmix_stream_feed(", arguments)
        yield "}"
    else:
        yield f"uint8_t* {name}_input(void) {{ return {network.address(model.input)}; }}"
    yield ""
    yield f"const uint8_t* {name}_output(void) {{ return {network.address(model.output)}; }}"


def _invoke(network: _Network) -> Iterator[str]:
    yield f"void {network.name}_invoke(void) {{"
    for step in network.steps[network.input_by_rows :]:
        first, last = step.layers[0].node, step.layers[-1].node
        views = f"{_shape(first.input_shapes[0])} -> {_shape(last.output_shape)}"
        name = first.name if first is last else step.call.name
        yield f"  /* {step.number}: {_words(name)}: {views} */"
        if isinstance(step, _Chain):
            arguments = [f"&{step.identifier}", f"{step.identifier}_operands"]
            arguments += [network.address(step.call.output), _scratch(network, step)]
            yield from _wrapped("  tfmix_stream_run(", arguments)
        else:
            yield from _kernel_call(network, step)
        yield f"  {network.prefix}_AFTER_LAYER({step.number});"
    yield "}"


def _scratch(network: _Network, step: _Step) -> str:
    """Its address."""
    offset = step.scratch_offset
    return "NULL" if offset is None else f"{network.name}_arena + {offset}"


def _kernel_call(network: _Network, step: _Single) -> Iterator[str]:
    layer = step.layer
    call, identifier = layer.call, layer.identifier
    inputs = [network.address(tensor) for tensor in call.inputs]
    opening, output = f"tfmix_{call.variant}(", network.address(call.output)
    if layer.items:
        arguments = [f"&{identifier}_params", f"{identifier}_inputs", "inputs", output]
        yield "  {"
        yield f"    const uint8_t* inputs[{len(inputs)}];"
        for index, address in enumerate(inputs):
            yield f"    inputs[{index}] = {address};"
        yield from _wrapped(f"    {opening}", arguments)
        yield "  }"
        return
    arguments = [f"&{identifier}_params", *inputs]
    if call.constants:
        arguments.append(f"{identifier}_constants")
    arguments.append(output)
    if layer.node.weights is not None:
        arguments.append(_scratch(network, step))
    yield from _wrapped(f"  {opening}", arguments)


def _wrapped(opening: str, arguments: list[str], closing: str = ");") -> Iterator[str]:
    """A call, or a list, over as many lines as it takes, arguments never torn."""
    line = opening
    for index, argument in enumerate(arguments):
        last = index + 1 == len(arguments)
        piece = argument + (closing if last else ",")
        if not line.endswith(("(", "{")):
            piece = f" {piece}"
        if len(line) + len(piece) > _LINE:
            yield line
            line, piece = " " * (len(opening) - len(opening.lstrip()) + 4), piece.lstrip()
        line += piece
    yield line


# -- the list of variants -----------------------------------------------------------------------

_VARIANTS = Template("""\
/* The kernel variants of $name, in place of all there are: for kernels that are compiled with this
 * file included ahead of everything (-include ${name}_variants.inc). Linkers that drop unused
 * functions need no such help. */
#ifndef TFMIX_VARIANTS_INC_
#define TFMIX_VARIANTS_INC_

$lists

#endif /* TFMIX_VARIANTS_INC_ */
""")


def _variants(network: _Network) -> str:
    """kernels/include/tfmix/variants.inc, cut down to what the network calls."""
    used = [abi.parse_variant(name) for name in network.variants]
    lists = []
    for kernel in Kernel:
        entries = [f"X_({', '.join(v.tags)})" for v in used if v.kernel is kernel]
        macro = f"#define TFMIX_{kernel.value.upper()}_VARIANTS(X_)"
        lists.append(" \\\n  ".join([macro, *entries]))
    return _VARIANTS.substitute(network.names, lists="\n".join(lists))
