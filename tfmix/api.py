"""The functions behind `import tfmix`: the parts below, put together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import tf_keras

from tfmix.budget import Budget
from tfmix.errors import BudgetError, TfmixError, UnsupportedModelError
from tfmix.export.c_source import export_c_network
from tfmix.export.flatbuffer import export_network
from tfmix.export.load import load_network
from tfmix.export.memory import memory_model
from tfmix.export.op_resolver import export_resolver_of
from tfmix.fakequant.apply import (
    apply,
    budget_of,
    get_policy,
    graph_of,
    is_quantized,
    require_quantized,
    set_budget,
    set_policy,
    unwrap,
)
from tfmix.fakequant.calibrate import (
    MAX_SAMPLES,
    batches,
    inputs_from,
    remembered_inputs,
    set_ranges,
)
from tfmix.fakequant.data import read_samples
from tfmix.fakequant.quantizers import ACTIVATION_QUANTIZERS, WEIGHT_QUANTIZERS
from tfmix.fakequant.rebuild import fold_batch_norm
from tfmix.fakequant.simulation import require_deployable
from tfmix.frontend.keras import problems_of, read
from tfmix.frontend.loading import as_tf_keras
from tfmix.integer.compare import warn_of_differences
from tfmix.integer.convert import convert_network
from tfmix.integer.inference import IntegerModel
from tfmix.ir.graph import Graph, as_graph
from tfmix.policy.cost.memory import MemoryReport
from tfmix.policy.cost.memory import memory_report as _memory_report
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search.session import SearchResult
from tfmix.search.problem import chains_of, flavour_of
from tfmix.search.run import Engine, search_bits

Weights = Literal["per_channel", "per_layer"]
BatchNormMode = Literal["icn", "fold"]


def quantize_model(
    model: Any,
    budget: Budget | None,
    *,
    policy: QuantizationPolicy | None = None,
    search: str = "auto",
    search_options: Mapping[str, Any] | None = None,
    calibration_data: Any = None,
    validation_data: Any = None,
    train_data: Any = None,
    journal: str | os.PathLike[str] | None = None,
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
      budget: FLASH and RAM to fit, or None for no limit. The model remembers it, in files too:
        where its RAM does not hold the tensors whole, layers run row by row (docs/streaming.md).
      policy: the bits to use; None to search for them. It must fit the budget.
      search: the method that chooses the bits, see search_policy; "auto" is "ilp" where there is
        data to measure sensitivities on, else "memory".
      search_options: further arguments of search_policy: options of the method, engine and so on.
      calibration_data: typical inputs, from which activation ranges are set: an array, a
        tf.data.Dataset, or any iterable of batches; a few hundred samples are enough. Without it
        validation_data serves; without either, the first batch of `fit` does.
      validation_data: (inputs, labels), for searches that measure accuracy. Without it searches
        that need no labels measure on calibration_data.
      train_data: (inputs, labels), for searches whose trials train.
      journal: a file that keeps what the search measures; the same call goes on from there.
      pinned: bits no search may change: {"weights": {layer: bits}, "activations": {tensor: bits}}.
      weights: one scale and zero point "per_channel" or "per_layer".
      batch_norm: "icn" keeps batch norm, trainable, and turns it into integer multipliers at
        conversion (integer channel normalization); "fold" folds it into the weights first.
      weight_quantizer: "lsq" learns the steps of the weights (Esser et al. 2020), "minmax" takes
        their least and greatest value (Rusci et al. 2020).
      activation_quantizer: "lsq" learns steps and zero points (Bhalgat et al. 2020), "pact" limits
        (Choi et al. 2018).
      seed: of every random choice.
      verbose: 0 is silent, 1 prints the search's progress and result, and the memory report.

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
    memory = memory_model(graph, weights, budget.accounting, budget.streaming_ram)
    if policy is not None:
        policy.validate(graph)
        _require_fit(_memory_report(memory, policy, budget), budget)

    qmodel = apply(
        network,
        per_channel=weights == "per_channel",
        weight_quantizer=weight_quantizer,
        activation_quantizer=activation_quantizer,
    )
    if isinstance(calibration_data, Iterator):  # it can be read once only
        calibration_data = list(batches(calibration_data, graph))
    data = validation_data if calibration_data is None else calibration_data
    if data is not None:
        set_ranges(qmodel, data, seed)
    if policy is None:
        options = dict(search_options or {})
        result = search_bits(
            qmodel,
            budget,
            search,
            data=_search_data(graph, validation_data, calibration_data),
            train_data=train_data,
            pinned=pinned,
            journal=journal,
            engine=options.pop("engine", "serial"),
            seed=seed,
            verbose=verbose,
            options=options,
        )
        policy = result.policy
        if verbose and result.evaluations:
            print(result)
    report = _memory_report(memory, policy, budget)
    _require_fit(report, budget)
    set_policy(qmodel, policy)
    set_budget(qmodel, budget)
    if verbose:
        print(report)
    return qmodel


def search_policy(
    model: Any,
    budget: Budget | None,
    method: str = "auto",
    *,
    validation_data: Any = None,
    calibration_data: Any = None,
    train_data: Any = None,
    journal: str | os.PathLike[str] | None = None,
    engine: Engine = "serial",
    pinned: Mapping[str, Mapping[str, int]] | None = None,
    weights: Weights = "per_channel",
    batch_norm: BatchNormMode = "icn",
    seed: int = 0,
    verbose: int = 1,
    **options: Any,
) -> SearchResult:
    """The bits that fit `budget`, as a search method finds them, with all that it measured.

    quantize_model calls it; it is of use alone to compare methods, or to search anew for a model
    that was fine-tuned. For searches that train within `fit`, with its optimizer, augmentation and
    callbacks, see PolicySearch.

    Args:
      model: what quantize_model takes, or a fake-quant model with known ranges. It is not changed:
        use set_policy(model, result.policy).
      budget: FLASH and RAM to fit, or None for no limit.
      method: "ilp", the optimum for measured sensitivities; "evolutionary"; "rl", the agent of
        Rusci et al. 2020; "random"; "memory", rules that need no data; "uniform". "auto" is "ilp"
        where there is data and 8 bits do not fit, else "memory".
      validation_data: what policies are measured on: (inputs, labels), a batched tf.data.Dataset or
        another iterable of batches. Without labels the loss is the divergence from the float
        network's outputs.
      calibration_data: typical inputs: sets the ranges of a model that is not quantized yet, and
        stands in for validation_data, without labels.
      train_data: (inputs, labels); with it trials of methods that train ("rl") are measured after
        one epoch of training, without it on the weights as they are.
      journal: a file that keeps each value; the same call goes on from there, however it ended.
      engine: "serial" measures one trial after the other, "ray" spreads them over a Ray cluster
        (pip install tfmix[ray]).
      pinned, weights, batch_norm, seed: as in quantize_model; a fake-quant model knows its own
        flavour.
      verbose: 0 is silent, 1 prints progress now and then.
      options: of the method, and of the measurements: batch_size, learning_rate (of training),
        loss_samples; see fakequant.evaluate.ModelEvaluator.

    Ctrl-C ends the search with the best so far (result.interrupted).

    Raises:
      BudgetError: no policy fits; it names the tensor in the way and the budget that would do.
      CalibrationError: ranges are not known, or calibration_data is no good.
      TfmixError: data is missing that the method needs, or does not fit the network; a value is not
        finite; the journal belongs to another search.
    """
    _check_kind("budget", budget, Budget)
    if not is_quantized(model):
        if isinstance(calibration_data, Iterator):
            calibration_data = list(calibration_data)
        model = quantize_model(
            model,
            None,
            calibration_data=validation_data if calibration_data is None else calibration_data,
            search="memory",
            weights=weights,
            batch_norm=batch_norm,
            seed=seed,
            verbose=0,
        )
    return search_bits(
        model,
        budget,
        method,
        data=_search_data(as_graph(model), validation_data, calibration_data),
        train_data=train_data,
        pinned=pinned,
        journal=journal,
        engine=engine,
        seed=seed,
        verbose=verbose,
        options=options,
    )


def check(model: Any) -> list[str]:
    """Every reason why `model` cannot be quantized: layers, settings, weights. Never raises.

    Args:
      model: whatever quantize_model takes.

    Returns: one line for each reason; an empty list means that it can.
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
      budget: the limits to compare with; its RAM also decides which layers run row by row. None
        compares with nothing, and takes that from the budget the model was made for, if any.
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
        weights = flavour_of(model)
        policy = policy or get_policy(model)
    elif policy is None:
        raise TfmixError("memory_report of a float model needs a policy")
    elif batch_norm == "fold" and isinstance(model, tf_keras.Model):
        graph = fold_batch_norm(read(model)).graph
    accounting = accounting or (budget.accounting if budget else "deployed")
    _check_choice("accounting", accounting, ("deployed", "paper"))
    to_fit = budget or (budget_of(model) if is_quantized(model) else None)
    streaming_ram = to_fit.streaming_ram if to_fit else None
    memory = memory_model(graph, weights or "per_channel", accounting, streaming_ram)
    return _memory_report(memory, policy, budget)


def convert(
    model: tf_keras.Model, data: Any = None, *, budget: Budget | None = None
) -> IntegerModel:
    """The integer-only network of a fake-quant model, at the bits now set.

    Each layer of it is compared with the fake-quant layer on the same inputs; where they differ by
    more than 1 LSB of the layer's output, a ConversionWarning names the layer and the reason.

    Args:
      data: inputs to compare on, as `calibrate` takes them. None takes the few that were remembered
        when the model was calibrated; a model loaded from a file remembers none, and then nothing
        is compared.
      budget: whose RAM decides which layers run row by row, which changes no value; None takes the
        one that quantize_model was given. Where none fits, those that take the least RAM.

    Raises CalibrationError where an activation's range is not known yet, ConversionError naming
    the layer whose numbers 32 bits do not hold.
    """
    require_quantized(model)
    require_deployable(model)
    _check_kind("budget", budget, Budget)
    integer_model = IntegerModel(convert_network(model, chains_of(model, budget)))
    x = remembered_inputs(model) if data is None else inputs_from(data, graph_of(model))
    if x is not None:
        warn_of_differences(model, integer_model, x, stacklevel=3)
    return integer_model


def export(
    model: tf_keras.Model | IntegerModel,
    path: str | os.PathLike[str],
    *,
    resolver: str | os.PathLike[str] | None = None,
    budget: Budget | None = None,
) -> Path:
    """Writes a `.tflite` file with custom ops (docs/format.md), whole or not at all.

    Args:
      model: a fake-quant model, which is converted first, or an IntegerModel.
      path: of the file.
      resolver: where `export_resolver` is to write the operators of the model, if anywhere.
      budget: as `convert` takes it; an IntegerModel has its chains already.

    Returns the path. Raises what `convert` does, and TfmixError where a file cannot be written.
    """
    model = _converted(model, budget)
    if resolver is not None:
        export_resolver(model, resolver)
    return export_network(model.network, path)


def export_resolver(
    model: tf_keras.Model | IntegerModel,
    path: str | os.PathLike[str] = "model_ops.h",
    *,
    budget: Budget | None = None,
) -> Path:
    """Writes the C++ header that registers the model's operators in TensorFlow Lite Micro, and no
    others (docs/tflm.md). Its namespace is the name of the file.

    Args:
      model: a fake-quant model, which is converted first, or an IntegerModel.
      path: of the header.
      budget: as `convert` takes it; an IntegerModel has its chains already.
    """
    model = _converted(model, budget)
    return export_resolver_of(model.network, path)


def export_c(
    model: tf_keras.Model | IntegerModel,
    directory: str | os.PathLike[str],
    *,
    name: str = "model",
    budget: Budget | None = None,
    input_by_rows: bool = False,
) -> tuple[Path, ...]:
    """Writes a C network that needs the kernels and nothing else (docs/c-export.md).

    `<name>.h`, `<name>.c` and `<name>_variants.inc`, all of them or none; the directory is made
    where its parent is there. Its arena is the `activation_bytes` of `memory_report`.

    Args:
      model: a fake-quant model, which is converted first, or an IntegerModel.
      directory: where the files go.
      name: a C identifier; files, functions and macros begin with it.
      budget: as `convert` takes it; an IntegerModel has its chains already.
      input_by_rows: the input is given to the network row by row, and is never whole.

    Returns the paths. TfmixError if `name` is none, the model or the files cannot be written, or
    the network does not begin with a chain that could take rows.
    """
    model = _converted(model, budget, input_by_rows=input_by_rows)
    return export_c_network(model.network, directory, name, input_by_rows=input_by_rows)


def load(path: str | os.PathLike[str]) -> IntegerModel:
    """Reads back what `export` wrote. FormatError where the file is not one of ours, whole."""
    return IntegerModel(load_network(path))


# -- helpers ----------------------------------------------------------------------------------


def _converted(
    model: tf_keras.Model | IntegerModel, budget: Budget | None, *, input_by_rows: bool = False
) -> IntegerModel:
    """`convert`, unless that is done."""
    if isinstance(model, IntegerModel):
        return model
    if not input_by_rows:
        return convert(model, budget=budget)
    chains = chains_of(model, budget, input_by_rows=True)
    integer_model = convert(model, budget=budget)
    network = replace(integer_model.network, chains=chains.chains, bands=chains.bands)
    return IntegerModel(network)


def _check_choice(what: str, value: Any, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        raise TfmixError(f"{what} {value!r} is not one of {allowed}")


def _check_kind(what: str, value: Any, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise TfmixError(f"{what} {value!r} is not a {kind.__name__} (or None)")


def _search_data(graph: Graph, validation_data: Any, calibration_data: Any) -> Any:
    """What a search measures on: of calibration data the inputs alone."""
    if validation_data is not None or calibration_data is None:
        return validation_data
    return read_samples(calibration_data, "calibration data", graph, limit=MAX_SAMPLES).x


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
