"""`PolicySearch`: a search whose episodes are the epochs of Keras' `fit`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

import tensorflow as tf
import tf_keras

from tfmix.budget import Budget
from tfmix.errors import TfmixError
from tfmix.fakequant.apply import quantizers_of, set_policy
from tfmix.fakequant.batch_norm import following_statistics
from tfmix.fakequant.evaluate import bits_of, digest_of, restored
from tfmix.fakequant.quantizers import FLOAT_BITS
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search.base import Found, Searcher, SearchProblem, Steps, Trial
from tfmix.policy.search.session import PrintProgress, SearchResult, SearchSession
from tfmix.search.problem import pose

_VALIDATION = "val_"


class PolicySearch(tf_keras.callbacks.Callback):
    """Searches for bits while `fit` runs: each epoch is one episode.

        training, validation = tfmix.proxy((x, y), 4096, 1024)
        search = tfmix.PolicySearch("rl", budget, episodes=300)
        qmodel.fit(training, epochs=300, validation_data=validation, callbacks=[search])
        print(search.result)

    An episode begins with the weights, ranges, statistics and optimizer that the model has when
    `fit` begins, sets the bits of a trial, trains for the epoch, and ends with the validation
    accuracy as the trial's value. Batch-norm statistics follow within the epoch, however short it
    is. Nothing is retraced. When the search is done, `fit` stops. In the end the model has its
    weights and optimizer back, and the best policy is set.

    Ctrl-C ends `fit` in good order, with the best policy so far; a second one interrupts it.

    Every trial is measured after an epoch, also of methods that do not ask for training. The
    accuracy of the float network, which methods compare with, is measured once, after the first
    epoch's training, on the same validation data.

    For a search that is resumed to end as one never interrupted, episodes must see the same batches
    in each run: `tfmix.proxy` gives such data; arrays, which `fit` shuffles, do not.

    Args:
      method: a search method whose trials ask for accuracy alone: "rl", "random".
      budget: FLASH and RAM to fit, or None for no limit.
      journal: a file that keeps each episode's accuracy; the same search with the same journal
        goes on where it ended, however it ended.
      pinned: as in `quantize_model`.
      seed: of every random choice.
      monitor: the validation metric that is the accuracy, in [0, 1].
      log_dir: where TensorBoard scalars are written: accuracy, best accuracy, FLASH and RAM of each
        episode; None for none.
      verbose: 1 prints progress now and then; 0 is silent.
      options: of the method.

    `fit` raises TfmixError where the metric is missing (naming those there are) or not finite, or
    the journal belongs to another search; BudgetError where no policy fits.
    """

    def __init__(
        self,
        method: str,
        budget: Budget | None,
        *,
        journal: str | os.PathLike[str] | None = None,
        pinned: Mapping[str, Mapping[str, int]] | None = None,
        seed: int = 0,
        monitor: str = "val_accuracy",
        log_dir: str | os.PathLike[str] | None = None,
        verbose: int = 1,
        **options: Any,
    ):
        super().__init__()
        if not isinstance(monitor, str) or not monitor.startswith(_VALIDATION):
            raise TfmixError(
                f"monitor {monitor!r} is not a validation metric; those begin with {_VALIDATION!r}"
            )
        self.method = method
        self.budget = budget
        self.journal = journal
        self.pinned = pinned
        self.seed = seed
        self.monitor = monitor
        self.log_dir = log_dir
        self.verbose = verbose
        self.options = options
        self._session: SearchSession | None = None

    @property
    def result(self) -> SearchResult:
        """What was found, as long as the search is not done the best so far; TfmixError where there
        is nothing yet."""
        if self._session is None:
            raise TfmixError("the search has not begun: pass this callback to fit")
        return self._session.best_so_far()

    # -- called by fit ------------------------------------------------------------------------

    def on_train_begin(self, logs: Any = None) -> None:
        model = self.model
        problem = pose(
            model,
            self.budget,
            self.pinned,
            measures=frozenset({"accuracy"}),
            trains=True,
            seed=self.seed,
        )
        model.optimizer.build(model.trainable_variables)  # so that its slots can be restored
        self._state = [(v, tf.identity(v)) for v in (*model.variables, *model.optimizer.variables)]
        self._session = SearchSession(
            self.method,
            problem,
            journal=self.journal,
            identity=self._identity(),
            options=self.options,
            wrap=_with_float_accuracy,
        )
        self._progress = PrintProgress() if self.verbose else None
        self._writer = None
        if self.log_dir is not None:
            self._writer = tf.summary.create_file_writer(os.fspath(self.log_dir))
        self._number: int | None = None  # of the trial that this epoch is
        self._interrupted = False
        self._leave_interrupts = _take_interrupts(self._interrupt, model)
        self._traced_for_episodes = contextlib.ExitStack()
        if self.params["steps"]:  # data of unknown length has none before its first epoch
            self._traced_for_episodes.enter_context(
                following_statistics(model, self.params["steps"])
            )
            model.make_train_function(force=True)
        self._check_epochs()
        model.stop_training = self._session.done

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._session.done:
            return
        with self._closing_on_error():
            self._number, trial = next(
                (number, trial) for number, trial in self._session.trials if not _is_float(trial)
            )
            set_policy(self.model, trial.policy)
            if trial.float_activations:
                for bound in quantizers_of(self.model).activations.values():
                    bound.variables["bits"].assign(FLOAT_BITS)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        if self._number is None:
            return
        with self._closing_on_error():
            self._restore()
            if self._interrupted:
                return
            accuracy = self._monitored(logs or {})
            for number, trial in self._session.trials:
                if _is_float(trial):
                    self._session.tell(number, self._float_accuracy())
            self._session.tell(self._number, accuracy)
            self._report()
            if self._session.done:
                self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        self._close()
        result = self.result
        set_policy(self.model, result.policy)
        if self.verbose:
            print(result)

    # -- parts --------------------------------------------------------------------------------

    def _identity(self) -> str:
        """Of all that accuracies depend on but the data, which a callback does not get to see."""
        bits = {id(variable) for variable in bits_of(self.model)}
        optimizer = json.dumps(self.model.optimizer.get_config(), sort_keys=True, default=str)
        digest = digest_of(value.numpy() for v, value in self._state if id(v) not in bits)
        return f"{digest} {optimizer} {self.monitor}"

    def _check_epochs(self) -> None:
        epochs = self.params["epochs"]
        known = sum(not _is_float(e.trial) for e in self._session.evaluations)
        left = (self._session.total or 0) - known
        if epochs < left:
            warnings.warn(
                f"search {self.method!r} has {left} episodes left, fit runs {epochs} epochs: the "
                "result will be the best so far",
                stacklevel=2,
            )

    def _monitored(self, logs: Mapping[str, float]) -> float:
        if self.monitor not in logs:
            message = f"no metric {self.monitor!r} after the epoch; there are {sorted(logs)}"
            if not any(name.startswith(_VALIDATION) for name in logs):
                message += "; pass validation_data to fit"
            raise TfmixError(message)
        return float(logs[self.monitor])

    def _float_accuracy(self) -> float:
        """The metric of the network without quantization, on the validation data of `fit`."""
        bits = bits_of(self.model)
        with restored(bits):
            for variable in bits:
                variable.assign(FLOAT_BITS)
            logs = self.model.evaluate(verbose=0, return_dict=True, _use_cached_eval_dataset=True)
        return float(logs[self.monitor.removeprefix(_VALIDATION)])

    def _report(self) -> None:
        if self._progress is not None and self._session is not None:
            self._progress(self._session)
        if self._writer is None:
            return
        last, best = self._session.evaluations[-1], self._session.best
        scalars = {
            "accuracy": last.value,
            "flash_bytes": last.flash_bytes,
            "ram_bytes": last.ram_bytes,
        }
        if best is not None:
            scalars["best_accuracy"] = best.value
        with self._writer.as_default(step=len(self._session.evaluations)):
            for name, value in scalars.items():
                _write_scalar(f"search/{name}", value)
        self._writer.flush()

    def _interrupt(self) -> None:
        self._interrupted = True
        self.model.stop_training = True

    def _restore(self) -> None:
        """Gives the model the weights, statistics, bits and optimizer it had when `fit` began."""
        for variable, value in self._state:
            variable.assign(value)

    def _close(self) -> None:
        self._restore()
        self._leave_interrupts()
        self._traced_for_episodes.close()
        self.model.train_function = None  # it was traced with the momenta of episodes
        if self._writer is not None:
            self._writer.close()

    @contextlib.contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        """`fit` calls nothing more after an error."""
        try:
            yield
        except BaseException:
            self._close()
            raise


# -- the float network's accuracy ---------------------------------------------------------------


def _with_float_accuracy(method: Searcher) -> Searcher:
    """`method`, asking for the float network's accuracy beside its first trials: a callback has no
    validation data to measure it with before.

    The method is begun twice, the second time with the accuracy; its first trials are the same.
    """

    def search(problem: SearchProblem, **options: Any) -> QuantizationPolicy | Found | Steps:
        steps = method(replace(problem, float_accuracy=1.0), **options)
        if not isinstance(steps, Generator):
            return steps
        return measured(steps, problem, options)

    def measured(steps: Steps, problem: SearchProblem, options: Mapping[str, Any]) -> Steps:
        try:
            first = tuple(next(steps))
        except StopIteration as stop:
            return stop.value
        values: Sequence[float]
        accuracy, *values = yield [_float_trial(problem), *first]
        again = method(replace(problem, float_accuracy=accuracy), **options)
        if not isinstance(again, Generator) or tuple(next(again)) != first:
            raise TypeError("the first trials of a search must not depend on float_accuracy")
        try:
            while True:
                values = yield again.send(values)
        except StopIteration as stop:
            return stop.value

    return search


def _float_trial(problem: SearchProblem) -> Trial:
    return Trial(problem.start(), float_activations=True, note={"float": True})


def _is_float(trial: Trial) -> bool:
    return bool(trial.note.get("float"))


# -- TensorBoard ------------------------------------------------------------------------------


def _write_scalar(name: str, value: float) -> None:
    """As tf.summary.scalar, which needs TensorBoard to be installed."""
    kind = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    metadata = tf.compat.v1.SummaryMetadata(plugin_data=kind)
    tf.summary.write(name, tf.constant(value, tf.float32), metadata=metadata)


# -- Ctrl-C -------------------------------------------------------------------------------------


def _take_interrupts(interrupt: Callable[[], None], model: tf_keras.Model) -> Callable[[], None]:
    """From now on the first Ctrl-C within `model.fit` calls `interrupt`, a second one does what it
    did before. Returns the function that undoes this."""
    before = signal.getsignal(signal.SIGINT)
    before = getattr(before, "before", before)  # one of ours is left where an error has ended fit
    if threading.current_thread() is not threading.main_thread() or before is None:
        return lambda: None  # signals are the main thread's business

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        while frame is not None and frame.f_locals.get("self") is not model:
            frame = frame.f_back
        if frame is None:  # an error has ended fit, of which a callback is not told
            signal.raise_signal(number)
        else:
            interrupt()

    def undo() -> None:
        if signal.getsignal(signal.SIGINT) is handle:
            signal.signal(signal.SIGINT, before)

    handle.before = before  # type: ignore[attr-defined]
    signal.signal(signal.SIGINT, handle)
    return undo
