"""Makes a fake-quant model that fits a budget, with everything about it in one directory.

Searches for the bits, calibrates, fine-tunes where --epochs says so. Each stage leaves its state in
the output directory: the same command, however it was stopped, goes on from there.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tfmix.cli.common import (
    Outcome,
    add_budget,
    budget_document,
    budget_of,
    import_tensorflow,
    say,
    verbosity,
)
from tfmix.cli.data import add_data, read_data
from tfmix.cli.directory import STAGES, Directory, digest_of, read_policy
from tfmix.cli.search import add_search, options_of, pinned_of, search_document
from tfmix.errors import FormatError, TfmixError

HELP = "make a fake-quant model that fits a budget"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a .keras or .h5 file, or a SavedModel")
    parser.add_argument("--out", metavar="FOLDER", required=True, help="the output directory")
    parser.add_argument(
        "--restart", action="store_true", help="begin anew, whatever the directory holds"
    )
    add_budget(parser)
    add_search(parser)
    parser.add_argument("--policy", metavar="FILE", help="these bits, and no search")
    add_data(
        parser,
        calibration="typical inputs, a few hundred; the validation data serves where there is none",
        validation="labelled; policies are measured on it, and the results",
        train="labelled; for --epochs",
    )
    group = parser.add_argument_group("quantizers and training")
    group.add_argument("--weight-quantizer", choices=("lsq", "minmax"), default="lsq")
    group.add_argument("--activation-quantizer", choices=("lsq", "pact"), default="lsq")
    group.add_argument(
        "--post-training",
        choices=("ranges", "quick", "full"),
        help="method of calibration, docs/post-training.md (ranges with --epochs, else quick)",
    )
    group.add_argument("--epochs", type=int, default=0, metavar="N", help="of fine-tuning (0)")
    group.add_argument("--learning-rate", type=float, default=1e-3, metavar="R", help="(0.001)")
    group.add_argument(
        "--no-teacher", action="store_true", help="learn from labels alone, not the float model"
    )


def run(arguments: argparse.Namespace) -> Outcome:
    budget = budget_of(arguments)
    directory = Directory(arguments.out)
    stage = directory.begin(_settings(arguments, budget), arguments.restart)
    try:
        if stage != STAGES[-1]:
            _run_from(stage, directory, budget, arguments)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped; the same command goes on from {directory.path}"
        ) from None
    return _outcome(directory, went_on=stage if stage != STAGES[0] else None)


def _settings(arguments: argparse.Namespace, budget: Any) -> dict[str, Any]:
    """All that the result depends on. TfmixError for options that contradict each other."""
    if arguments.epochs < 0:
        raise TfmixError(f"--epochs {arguments.epochs} is negative")
    if arguments.epochs and arguments.train is None:
        raise TfmixError("--epochs needs --train")
    if not (arguments.calibration or arguments.validation):
        raise TfmixError("quantize needs --calibration or --validation: ranges come from data")
    names = (
        *("model", "policy", "search", "weights", "batch_norm", "seed", "calibration"),
        *("validation", "train", "scale", "batch_size", "weight_quantizer", "epochs"),
        *("activation_quantizer", "learning_rate", "no_teacher"),
    )
    if not Path(arguments.model).exists():
        raise FormatError(f"{arguments.model}: no such file or directory")
    return {
        **{name: getattr(arguments, name) for name in names},
        "post_training": _post_training(arguments),
        "model_sha256": digest_of(arguments.model),
        "budget": budget_document(budget),
        "search_options": options_of(arguments),
        "pinned": pinned_of(arguments),
    }


def _post_training(arguments: argparse.Namespace) -> Any:
    return arguments.post_training or ("ranges" if arguments.epochs else "quick")


def _run_from(stage: str, directory: Directory, budget: Any, arguments: argparse.Namespace) -> None:
    """All stages after `stage`."""
    import_tensorflow(arguments.debug)
    import tfmix
    from tfmix.fakequant.apply import set_budget
    from tfmix.frontend.loading import as_tf_keras

    say(arguments, f"read {arguments.model}")
    model = as_tf_keras(arguments.model)
    shape = model.input_shape[1:]
    data = {
        name: read_data(getattr(arguments, name), shape, arguments, train=name == "train")
        for name in ("calibration", "validation", "train")
    }
    inputs = data["validation"] if data["calibration"] is None else data["calibration"]
    if STAGES.index(stage) < STAGES.index("calibrated"):
        qmodel = tfmix.quantize_model(
            model,
            None,
            search="memory",
            calibration_data=inputs,
            weights=arguments.weights,
            batch_norm=arguments.batch_norm,
            weight_quantizer=arguments.weight_quantizer,
            activation_quantizer=arguments.activation_quantizer,
            seed=arguments.seed,
            verbose=0,
        )
        if stage == "begun":
            _choose_bits(qmodel, directory, budget, data, arguments)
        tfmix.set_policy(qmodel, directory.policy())
        set_budget(qmodel, budget)
        _calibrate(qmodel, directory, inputs, arguments)
        directory.save(model, directory.float_model)
        directory.save(qmodel, directory.model)
        directory.advance("calibrated")
    else:
        qmodel = as_tf_keras(directory.model)
    facts: dict[str, Any] = {}
    if arguments.epochs:
        say(arguments, "fine-tune")
        trained = tfmix.finetune(
            qmodel,
            data["train"],
            data["validation"],
            arguments.epochs,
            teacher=None if arguments.no_teacher else model,
            learning_rate=arguments.learning_rate,
            batch_size=arguments.batch_size,
            checkpoint_dir=directory.finetune,
            seed=arguments.seed,
            verbose=2 * verbosity(arguments),
        )
        directory.save(qmodel, directory.model)
        facts["training"] = trained.history
    facts["scores"] = _scores(model, qmodel, data["validation"], arguments)
    directory.advance(STAGES[-1], **facts)


def _choose_bits(
    qmodel: Any,
    directory: Directory,
    budget: Any,
    data: dict[str, Any],
    arguments: argparse.Namespace,
) -> None:
    """Leaves policy.json, and how it was found."""
    import tfmix

    if arguments.policy:
        policy = read_policy(arguments.policy)
        report = tfmix.memory_report(qmodel, policy, budget)
        if not report.fits:
            raise tfmix.BudgetError(
                f"the policy of {arguments.policy} does not fit: FLASH {report.flash_bytes:,} B, "
                f"RAM {report.ram_bytes:,} B",
                tensor=report.peak_step.name,
                smallest=report.ram_bytes,
            )
        directory.write_policy(policy, None)
        directory.advance("searched", search=None)
        return
    say(arguments, "search for the bits")
    result = tfmix.search_policy(
        qmodel,
        budget,
        arguments.search,
        validation_data=data["validation"],
        calibration_data=data["calibration"],
        journal=directory.journal,
        pinned=pinned_of(arguments),
        seed=arguments.seed,
        verbose=verbosity(arguments),
        **options_of(arguments),
    )
    if result.interrupted:  # the journal goes on; the best so far is not what was asked for
        raise KeyboardInterrupt
    directory.write_policy(result.policy, result.table)
    directory.advance("searched", search=search_document(result))


def _calibrate(
    qmodel: Any, directory: Directory, inputs: Any, arguments: argparse.Namespace
) -> None:
    """The part that needs no labels. Ranges are known already."""
    import tfmix

    method = _post_training(arguments)
    if method == "ranges":
        return
    say(arguments, f"calibrate, {method}")
    tfmix.calibrate(
        qmodel,
        inputs,
        method=method,
        state_dir=directory.calibration if method == "full" else None,
        seed=arguments.seed,
        verbose=verbosity(arguments),
    )


def _scores(
    model: Any, qmodel: Any, validation: Any, arguments: argparse.Namespace
) -> dict[str, Any] | None:
    """Of the float and the fake-quant model, where there is something to measure on."""
    if validation is None:
        return None
    from tfmix.fakequant.data import read_samples
    from tfmix.report.accuracy import evaluate

    say(arguments, "measure")
    samples = read_samples(validation, "validation data")
    return asdict(evaluate({"float": model, "fake_quant": qmodel}, samples))


def _outcome(directory: Directory, went_on: str | None) -> Outcome:
    """What is in the directory, with the memory report."""
    import_tensorflow()
    import tfmix
    from tfmix.cli.directory import load_models

    state = directory.read()
    report = tfmix.memory_report(load_models(directory.path).qmodel, budget=directory.budget())
    document = {
        "directory": str(directory.path),
        "went_on_from": went_on,
        "flash_bytes": report.flash_bytes,
        "ram_bytes": report.ram_bytes,
        "fits": report.fits,
        **{name: state.get(name) for name in ("search", "training", "scores")},
    }
    lines = [str(report)]
    scores = state.get("scores")
    if scores:
        values = ", ".join(
            f"{name.replace('_', '-')} {value:.4f}" for name, value in scores["values"].items()
        )
        lines.append(
            f"{scores['measure'].replace('_', ' ')} on {scores['samples']} samples: {values}"
        )
    lines.append(f"written to {directory.path}: tfmix evaluate, export and report take it")
    return Outcome(document, "\n".join(lines), 0 if report.fits else 1)
