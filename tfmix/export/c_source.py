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

import numpy as np

from tfmix.errors import TfmixError
from tfmix.export.files import write_all
from tfmix.integer import abi
from tfmix.integer.lower import KernelCall, lower
from tfmix.integer.model import BINARY_KERNELS, IntegerNetwork, IntegerNode, Kernel
from tfmix.integer.runtime import BufferSizes, prepare
from tfmix.integer.schedule import schedule_of
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
    model: IntegerNetwork, directory: str | os.PathLike[str], name: str = "model"
) -> tuple[Path, ...]:
    """Writes the files of `c_sources` into `directory`, all of them or none; returns their paths.

    The directory is made where its parent is there; older files of these names are replaced.
    TfmixError if the model cannot be written, or the files not.
    """
    sources = c_sources(model, name)
    return write_all(Path(directory), {file: text.encode() for file, text in sources.items()})


def c_sources(model: IntegerNetwork, name: str = "model") -> dict[str, str]:
    """File name -> text: `<name>.h`, `<name>.c` and `<name>_variants.inc`. Deterministic.

    TfmixError if `name` is not a C identifier, the model is not valid, its input or output has not
    8 bits, or a kernel refuses its parameters or wants more scratch than was planned.
    """
    _check_name(name)
    check_model(model)
    for tensor in (model.input, model.output):
        bits = model.tensors[tensor].quant.bits
        if bits != FIXED_BITS:
            raise TfmixError(f"{tensor!r} has {bits} bits; input and output have {FIXED_BITS}")
    network = _Network.of(model, name)
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
    """One kernel call. sizes.scratch is what the plan has set aside, at least what is needed."""

    number: int
    node: IntegerNode
    call: KernelCall
    sizes: BufferSizes
    scratch_offset: int | None

    @property
    def identifier(self) -> str:
        return f"layer{self.number}"

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
class _Network:
    name: str
    model: IntegerNetwork
    schedule: Schedule
    plan: ArenaPlan
    layers: tuple[_Layer, ...]

    @classmethod
    def of(cls, model: IntegerNetwork, name: str) -> _Network:
        schedule = schedule_of(model)
        arena = plan(schedule)
        layers = []
        for number, (node, step) in enumerate(zip(model.nodes, schedule.steps, strict=True), 1):
            call = lower(node, model.tensors)
            needed = prepare(call)
            if needed.scratch > step.scratch:
                raise TfmixError(
                    f"{node.name}: {call.variant} needs {needed.scratch} bytes of scratch, "
                    f"{step.scratch} are planned"
                )
            sizes = BufferSizes(needed.inputs, needed.constants, needed.output, step.scratch)
            offset = arena.scratch_offsets.get(step.name)
            layers.append(_Layer(number, node, call, sizes, offset))
        return cls(name, model, schedule, arena, tuple(layers))

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
        total = 0
        for layer in self.layers:
            total += -(-len(layer.call.constants) // ALIGNMENT) * ALIGNMENT
            total += len(layer.call.params)
        return total

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(sorted({layer.call.variant for layer in self.layers}))

    def address(self, tensor: str) -> str:
        return f"{self.name}_arena + {self.plan.offsets[tensor]}"


# -- the header ---------------------------------------------------------------------------------

_HEADER = Template("""\
/* $name: an integer-only network, written by tfmix $version. Do not edit.
 *
 *   input   $input_shape, uint8: q stands for $input_scale * (q - $input_zero_point)
 *   output  $output_shape, uint8: q stands for $output_scale * (q - $output_zero_point)
 *   RAM     $arena bytes: the arena, which holds input, output and all between
 *   flash   $constants bytes of weights and parameters, and beside them the code of the kernels:
 *
$variants
 *
 *     if (${name}_init() != TFMIX_OK) stop();    once
 *     memcpy(${name}_input(), image, ${PREFIX}_INPUT_BYTES);
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
#define ${PREFIX}_INPUT_BYTES $input_bytes
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

/* Where the input goes. invoke overwrites it: write it before each. */
uint8_t* ${name}_input(void);

/* Computes the output from the input. */
void ${name}_invoke(void);

/* The output, which stays from invoke until the input is written. */
const uint8_t* ${name}_output(void);

/* The arena. Where ${PREFIX}_USER_ARENA is defined it is yours to define, for instance to share it:
 * ${PREFIX}_ARENA_BYTES bytes at a multiple of $alignment. */
extern uint8_t ${name}_arena[${PREFIX}_ARENA_BYTES];

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* ${PREFIX}_H_ */
""")


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
        values[f"{what}_bytes"] = network.schedule.buffers[name]
        values[f"{what}_scale"] = _float(quant.scale)
        values[f"{what}_zero_point"] = quant.zero_point
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
    parts = [_SOURCE_HEAD.substitute(network.names)]
    parts += [_text(_layer(network, layer)) for layer in network.layers]
    parts += [_text(_arena(network)), _CHECK, _text(_init(network))]
    parts += [_text(_accessors(network)), _text(_invoke(network))]
    return "\n".join(parts)


def _layer(network: _Network, layer: _Layer) -> Iterator[str]:
    """Constants, parameters and, for init, the bits and sizes of one layer."""
    call, params, identifier = layer.call, layer.params, layer.identifier
    attributes = f"{network.prefix}_CONSTANT_ATTRIBUTES"
    yield from _layer_comment(network, layer)
    if call.constants:
        declaration = f"static const uint8_t {identifier}_constants[{len(call.constants)}]"
        yield f"{network.prefix}_ALIGNED {attributes} {declaration} = {{"
        yield from _bytes(call.constants)
        yield "};"
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
    sizes, second = layer.sizes, 0
    first = sum(sizes.inputs)
    if call.kernel in BINARY_KERNELS:
        first, second = sizes.inputs
    numbers = (first, second, sizes.constants, sizes.output, sizes.scratch)
    yield f"static const tfmix_sizes {identifier}_sizes = {_braces(numbers)};"


def _layer_comment(network: _Network, layer: _Layer) -> Iterator[str]:
    node, tensors = layer.node, network.model.tensors
    yield f"/* {layer.number}: {_words(node.name)}: {layer.call.variant}"
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
    for layer in network.layers:
        if layer.scratch_offset is not None:
            number = layer.number
            yield layer.scratch_offset, layer.sizes.scratch, number, number, "scratch"


def _init(network: _Network) -> Iterator[str]:
    most_inputs = max((len(layer.items) for layer in network.layers), default=0)
    yield f"tfmix_status {network.name}_init(void) {{"
    yield "  tfmix_status status;"
    yield "  tfmix_sizes sizes;"
    if most_inputs:
        yield f"  int32_t input_sizes[{most_inputs}];"
    for layer in network.layers:
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
    yield f"uint8_t* {name}_input(void) {{ return {network.address(model.input)}; }}"
    yield ""
    yield f"const uint8_t* {name}_output(void) {{ return {network.address(model.output)}; }}"


def _invoke(network: _Network) -> Iterator[str]:
    yield f"void {network.name}_invoke(void) {{"
    for layer in network.layers:
        node = layer.node
        views = f"{_shape(node.input_shapes[0])} -> {_shape(node.output_shape)}"
        yield f"  /* {layer.number}: {_words(node.name)}: {views} */"
        yield from _kernel_call(network, layer)
        yield f"  {network.prefix}_AFTER_LAYER({layer.number});"
    yield "}"


def _kernel_call(network: _Network, layer: _Layer) -> Iterator[str]:
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
        offset = layer.scratch_offset
        arguments.append("NULL" if offset is None else f"{network.name}_arena + {offset}")
    yield from _wrapped(f"  {opening}", arguments)


def _wrapped(opening: str, arguments: list[str]) -> Iterator[str]:
    """A call over as many lines as it takes, arguments never torn."""
    line = opening
    for index, argument in enumerate(arguments):
        last = index + 1 == len(arguments)
        piece = argument + (");" if last else ",")
        if not line.endswith("("):
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
