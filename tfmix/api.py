"""The functions behind `import tfmix`: the parts below, put together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import tf_keras

from tfmix.budget import Budget
from tfmix.errors import BudgetError, TfmixError, UnsupportedModelError
from tfmix.export.c_source import export_c_network
from tfmix.export.flatbuffer import export_network, file_size
from tfmix.export.load import load_network
from tfmix.export.op_resolver import export_resolver_of
from tfmix.fakequant.apply import (
    apply,
    get_policy,
    is_quantized,
    quantizers_of,
    require_quantized,
    set_policy,
    unwrap,
)
from tfmix.fakequant.calibrate import set_ranges
from tfmix.fakequant.quantizers import ACTIVATION_QUANTIZERS, WEIGHT_QUANTIZERS
from tfmix.fakequant.rebuild import fold_batch_norm
from tfmix.frontend.keras import problems_of, read
from tfmix.frontend.loading import as_tf_keras
from tfmix.integer.convert import convert_network, skeleton
from tfmix.integer.inference import IntegerModel
from tfmix.ir.graph import Graph, as_graph
from tfmix.policy.cost.memory import (
    DeployedMemory,
    MemoryModel,
    MemoryReport,
    PaperMemory,
)
from tfmix.policy.cost.memory import memory_report as _memory_report
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search.base import Pinned, SearchProblem, get_searcher

Weights = Literal["per_channel", "per_layer"]
BatchNormMode = Literal["icn", "fold"]

#: What search="auto" means.
_DEFAULT_SEARCH = "memory"


def quantize_model(
    model: Any,
    budget: Budget | None,
    *,
    policy: QuantizationPolicy | None = None,
    search: str = "auto",
    calibration_data: Any = None,
    validation_data: Any = None,
    pinned: Mapping[str, Mapping[str, int]] | None = None,
    weights: Weights = "per_channel",
    batch_norm: BatchNormMode = "icn",
    weight_quantizer: str = "lsq",
    activation_quantizer: str = "lsq",
    seed: int = 0,
    verbose: int = 1,
) -> tf_keras.Model:
    """A fake-quant model of `model` whose bits fit `budget`, to be compiled and fine-tuned.

    Args:
      model: a trained Sequential or functional model of tf_keras or Keras 3, or the path of a
        `.keras` or `.h5` file or of a SavedModel that Keras 2 wrote; it is not changed.
      budget: FLASH and RAM to fit, or None for no limit.
      policy: the bits to use; None to search for them. It must fit the budget.
      search: the method that chooses the bits: "memory" (the rules of Rusci et al. 2020); "auto"
        is the best there is for what is given, today "memory".
      calibration_data: typical inputs, from which activation ranges are set: an array, a
        tf.data.Dataset, or any iterable of batches; a few hundred samples are enough. Without it
        validation_data serves; without either, the first batch of `fit` does.
      validation_data: (inputs, labels), for searches that measure accuracy.
      pinned: bits no search may change: {"weights": {layer: bits}, "activations": {tensor: bits}}.
      weights: one scale and zero point "per_channel" or "per_layer".
      batch_norm: "icn" keeps batch norm, trainable, and turns it into integer multipliers at
        conversion (integer channel normalization); "fold" folds it into the weights first.
      weight_quantizer: "lsq" learns the steps of the weights (Esser et al. 2020), "minmax" takes
        their least and greatest value (Rusci et al. 2020).
      activation_quantizer: "lsq" learns steps and zero points (Bhalgat et al. 2020), "pact" limits
        (Choi et al. 2018).
      seed: of every random choice.
      verbose: 0 is silent, 1 prints the memory report.

    Returns: a tf_keras.Model, not compiled. Its bits are variables: see get_policy, set_policy.

    Raises:
      UnsupportedModelError: layers or settings that cannot be deployed, all listed; NaN weights.
      FormatError: no such file, or not one of a model.
      BudgetError: no policy fits; it names the tensor in the way and the budget that would do.
      CalibrationError: calibration data that is empty, not finite, or of another shape.
    """
    _check_choice("weights", weights, ("per_channel", "per_layer"))
    _check_choice("batch_norm", batch_norm, ("icn", "fold"))
    _check_choice("weight_quantizer", weight_quantizer, tuple(WEIGHT_QUANTIZERS))
    _check_choice("activation_quantizer", activation_quantizer, tuple(ACTIVATION_QUANTIZERS))
    model = as_tf_keras(model)
    if is_quantized(model):
        raise TfmixError(
            f"{model.name!r} is a fake-quant model already; use set_policy to change its bits"
        )
    _check_kind("budget", budget, Budget)
    _check_kind("policy", policy, QuantizationPolicy)
    _check_kind("pinned", pinned, Mapping)
    for what, bits in (pinned or {}).items():
        _check_kind(f"pinned {what}", bits, Mapping)
    budget = budget or Budget(None, None)
    network = read(model)
    if batch_norm == "fold":
        network = fold_batch_norm(network)
    graph = network.graph
    memory = _memory_model(graph, weights, budget.accounting)
    if policy is None:
        _check_kind("search", search, str)
        method = get_searcher(_DEFAULT_SEARCH if search == "auto" else search)
        policy = method(
            SearchProblem(memory, budget, pinned=Pinned.parse(graph, pinned), seed=seed)
        )
    else:
        policy.validate(graph)
    report = _memory_report(memory, policy, budget)
    _require_fit(report, budget)

    qmodel = apply(
        network,
        per_channel=weights == "per_channel",
        weight_quantizer=weight_quantizer,
        activation_quantizer=activation_quantizer,
    )
    data = validation_data if calibration_data is None else calibration_data
    if data is not None:
        set_ranges(network, quantizers_of(qmodel), data, seed)
    set_policy(qmodel, policy)
    if verbose:
        print(report)
    return qmodel


def check(model: Any) -> list[str]:
    """Every reason why `model` cannot be quantized: layers, settings, weights. Never raises.

    model: whatever quantize_model takes. An empty list means that it does.
    """
    try:
        return problems_of(as_tf_keras(model), unwrap)
    except UnsupportedModelError as error:
        return list(error.problems)
    except TfmixError as error:
        return [str(error)]


def memory_report(
    model: Any,
    policy: QuantizationPolicy | None = None,
    budget: Budget | None = None,
    accounting: Literal["deployed", "paper"] | None = None,
    *,
    weights: Weights | None = None,
    batch_norm: BatchNormMode = "icn",
) -> MemoryReport:
    """FLASH and RAM of `model` under `policy`, step by step and in all; print it for a table.

    Args:
      model: whatever quantize_model takes, a fake-quant model, or a Graph.
      policy: None for the bits now set in a fake-quant model.
      budget: the limits to compare with.
      accounting: "deployed" counts the exported file and the arena that TensorFlow Lite Micro
        uses on a Cortex-M, "paper" counts as Rusci et al. 2020 do; None takes the budget's, or
        "deployed".
      weights, batch_norm: as in quantize_model; a fake-quant model knows its own.
    """
    _check_kind("policy", policy, QuantizationPolicy)
    _check_kind("budget", budget, Budget)
    _check_choice("weights", weights, ("per_channel", "per_layer", None))
    _check_choice("batch_norm", batch_norm, ("icn", "fold"))
    model = as_tf_keras(model)
    graph = as_graph(model)
    if is_quantized(model):
        policy = policy or get_policy(model)
        quantizers = quantizers_of(model).weights.values()
        per_channel = all(bound.quantizer.per_channel for bound in quantizers)
        weights = "per_channel" if per_channel else "per_layer"
    elif policy is None:
        raise TfmixError("memory_report of a float model needs a policy")
    elif batch_norm == "fold" and isinstance(model, tf_keras.Model):
        graph = fold_batch_norm(read(model)).graph
    accounting = accounting or (budget.accounting if budget else "deployed")
    _check_choice("accounting", accounting, ("deployed", "paper"))
    return _memory_report(
        _memory_model(graph, weights or "per_channel", accounting), policy, budget
    )


def convert(model: tf_keras.Model) -> IntegerModel:
    """The integer-only network of a fake-quant model, at the bits now set.

    Raises CalibrationError where an activation's range is not known yet, ConversionError naming
    the layer whose numbers 32 bits do not hold.
    """
    require_quantized(model)
    return IntegerModel(convert_network(model))


def export(
    model: tf_keras.Model | IntegerModel,
    path: str | os.PathLike[str],
    *,
    resolver: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes a `.tflite` file with custom ops (docs/format.md), whole or not at all.

    model: a fake-quant model, which is converted first, or an IntegerModel.
    resolver: where `export_resolver` is to write the operators of the model, if anywhere.
    """
    if not isinstance(model, IntegerModel):
        model = convert(model)
    if resolver is not None:
        export_resolver(model, resolver)
    return export_network(model.network, path)


def export_resolver(
    model: tf_keras.Model | IntegerModel, path: str | os.PathLike[str] = "model_ops.h"
) -> Path:
    """Writes the C++ header that registers the model's operators in TensorFlow Lite Micro, and no
    others (docs/tflm.md). Its namespace is the name of the file.

    model: a fake-quant model, which is converted first, or an IntegerModel.
    """
    if not isinstance(model, IntegerModel):
        model = convert(model)
    return export_resolver_of(model.network, path)


def export_c(
    model: tf_keras.Model | IntegerModel,
    directory: str | os.PathLike[str],
    *,
    name: str = "model",
) -> tuple[Path, ...]:
    """Writes a C network that needs the kernels and nothing else (docs/c-export.md).

    `<name>.h`, `<name>.c` and `<name>_variants.inc`, all of them or none; the directory is made
    where its parent is there. Its arena is the `activation_bytes` of `memory_report`.

    model: a fake-quant model, which is converted first, or an IntegerModel.
    name: a C identifier; files, functions and macros begin with it.

    Returns the paths. TfmixError if `name` is none, or the model or the files cannot be written.
    """
    if not isinstance(model, IntegerModel):
        model = convert(model)
    return export_c_network(model.network, directory, name)


def load(path: str | os.PathLike[str]) -> IntegerModel:
    """Reads back what `export` wrote. FormatError where the file is not one of ours, whole."""
    return IntegerModel(load_network(path))


# -- helpers ----------------------------------------------------------------------------------


def _check_choice(what: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise TfmixError(f"{what} {value!r} is not one of {allowed}")


def _check_kind(what: str, value: Any, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise TfmixError(f"{what} {value!r} is not a {kind.__name__} (or None)")


def _memory_model(graph: Graph, weights: Weights, accounting: str) -> MemoryModel:
    if accounting == "paper":
        return PaperMemory(graph, weights)
    per_channel = weights == "per_channel"

    def size(policy: QuantizationPolicy) -> int:
        return file_size(skeleton(graph, policy, per_channel=per_channel))

    return DeployedMemory(graph, size)


def _require_fit(report: MemoryReport, budget: Budget) -> None:
    """The policy given or found must fit: BudgetError with the larger figure otherwise."""
    for what, found, limit, step in (
        (
            "FLASH",
            report.flash_bytes,
            budget.flash,
            max(report.steps, key=lambda s: s.weight_bytes),
        ),
        ("RAM", report.ram_bytes, budget.ram, report.peak_step),
    ):
        if limit is not None and found > limit:
            raise BudgetError(
                f"the policy takes {found:,} B of {what}, the budget allows {limit:,} B; "
                f"{step.name} takes the most",
                tensor=step.name,
                smallest=found,
            )
