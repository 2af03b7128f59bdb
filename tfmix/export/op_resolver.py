"""IntegerNetwork -> the C++ header by which a firmware registers exactly the operators it needs.

TensorFlow Lite Micro finds operators by name in a resolver, and what is in the resolver is linked.
docs/tflm.md is the manual.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from string import Template

from tfmix.errors import TfmixError
from tfmix.export.files import write_all
from tfmix.export.options import op_name
from tfmix.integer.lower import lower
from tfmix.integer.model import IntegerNetwork, IntegerNode, Kernel
from tfmix.integer.schedule import schedule_of
from tfmix.integer.stream import execution_order, lower_chain
from tfmix.integer.validate import check_model
from tfmix.policy.cost.arena import ALIGNMENT, plan
from tfmix.policy.cost.tflm import Census
from tfmix.version import __version__

#: What a header may be called: its namespace is this name, its include guard the same in capitals.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


def export_resolver_of(model: IntegerNetwork, path: str | os.PathLike[str]) -> Path:
    """Writes `resolver_source` to `path`, whole or not at all. Returns the path.

    TfmixError if the file's name is no C identifier, or the model or the file cannot be written.
    """
    path = Path(path)
    text = resolver_source(model, path.stem)
    if not path.parent.is_dir():
        raise TfmixError(f"cannot write {path}: there is no directory {path.parent}")
    write_all(path.parent, {path.name: text.encode()})
    return path


def resolver_source(model: IntegerNetwork, name: str = "model_ops") -> str:
    """The header, whose content stands in namespace `name`. Deterministic.

    TfmixError if `name` is no C identifier or the model is not valid.
    """
    if not _NAME.fullmatch(name):
        raise TfmixError(
            f"resolver {name!r} is not a C identifier: a letter, then letters, digits and '_', "
            "63 at most"
        )
    check_model(model)
    operators = operators_of(model)
    kernels = stream_kernels_of(model)
    adds = [_ADD.substitute(operator=operator) for operator in operators]
    if kernels:
        adds.append(_ADD.substitute(operator="TFMIX_STREAM<kStreamKernels>"))
    return _HEADER.substitute(
        name=name,
        guard=f"{name.upper()}_H_",
        version=__version__,
        count=len(adds),
        arena=arena_bytes(model),
        alignment=ALIGNMENT,
        adds="".join(adds),
        kernels=_KERNELS.substitute(kernels="".join(f"\n    {k}" for k in kernels))
        if kernels
        else "",
    )


def operators_of(model: IntegerNetwork) -> tuple[str, ...]:
    """Names of the custom operators but TFMIX_STREAM, sorted, each once."""
    nodes = [step for step in execution_order(model) if isinstance(step, IntegerNode)]
    calls = (lower(node, model.tensors, zero_constants=True) for node in nodes)
    return tuple(sorted({op_name(call.variant) for call in calls}))


def stream_kernels_of(model: IntegerNetwork) -> tuple[str, ...]:
    """What the chains call, as macros of kernels/include/tfmix/stream.h, sorted, each once."""
    chains = (lower_chain(model, chain, zero_constants=True) for chain in model.chains)
    return tuple(sorted({entry for chain in chains for entry in chain.kernel_entries}))


def census_of(model: IntegerNetwork) -> Census:
    """Equal to `census(graph, schedule)` of the graph the model was converted from."""
    schedule = schedule_of(model)
    steps = schedule.steps
    constants = sum(node.weights is not None or node.table is not None for node in model.nodes)
    return Census(
        operators=len(steps),
        activations=len(schedule.buffers),
        constants=constants,
        scratch_buffers=sum(step.scratch > 0 for step in steps),
        concatenated=tuple(
            len(node.inputs) for node in model.nodes if node.kernel is Kernel.CONCATENATE
        ),
    )


def arena_bytes(model: IntegerNetwork) -> int:
    """The smallest arena in which TensorFlow Lite Micro loads the model on a Cortex-M."""
    return census_of(model).arena_bytes(plan(schedule_of(model)).total)


_HEADER = Template("""\
/* The operators of a model, for TensorFlow Lite Micro; written by tfmix $version. Do not edit.
 *
 *     alignas($alignment) static uint8_t arena[$name::kArenaBytes];
 *     static tflite::MicroMutableOpResolver<$name::kCount> resolver;
 *     if ($name::AddTo(resolver) != kTfLiteOk) stop();
 */
#ifndef $guard
#define $guard

#include <stddef.h>

#include "tfmix/tflm.h"

namespace $name {

/* Operators that the model needs; a resolver with more room can hold others beside them. */
constexpr unsigned kCount = $count;

/* The smallest arena that will do on a 32-bit machine, if it begins at a multiple of $alignment. */
constexpr size_t kArenaBytes = $arena;
$kernels
template <class Resolver>
TfLiteStatus AddTo(Resolver& resolver) {
${adds}  return kTfLiteOk;
}

}  // namespace $name

#endif  // $guard
""")

_KERNELS = Template("""
/* The kernels that run within chains of layers. */
inline const tfmix_stream_kernel kStreamKernels[] = {$kernels
};
""")

_ADD = Template("  if (tfmix::Add$operator(resolver) != kTfLiteOk) return kTfLiteError;\n")
