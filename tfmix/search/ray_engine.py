"""engine="ray": trials measured side by side by the workers of a Ray cluster.

Each worker builds its `ModelEvaluator` once, from the model and the data in Ray's object store. A
trial whose worker dies is given to another; a worker that dies is replaced.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras

from tfmix.errors import TfmixError
from tfmix.fakequant.evaluate import ModelEvaluator
from tfmix.policy.search.base import Trial

#: So many workers may die with the same trial before it is held to be the trial's fault.
MAX_LOSSES = 3


class RayEngine:
    """A context manager that gives an `evaluate_many` for `session.run`.

    It uses the cluster that Ray is connected to; where it is connected to none, that of the
    environment (RAY_ADDRESS), else one on this machine, which ends with the search.

    evaluator: what the workers' evaluators are copies of.
    workers: how many; by default one per CPU of the cluster.
    """

    def __init__(self, evaluator: ModelEvaluator, workers: int | None = None):
        try:
            import ray
        except ImportError:
            raise TfmixError("engine 'ray' needs Ray: pip install tfmix[ray]") from None
        self._ray = ray
        self._evaluator = evaluator
        self._workers = workers
        self._idle: deque[Any] = deque()
        self._busy: dict[Any, tuple[Any, int]] = {}  # answer to come -> (worker, position)

    def __enter__(self) -> RayEngine:
        ray = self._ray
        self._started = not ray.is_initialized()
        if self._started:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
        try:
            self._recipe = ray.put((_to_bytes(self._evaluator.model), self._evaluator.recipe()))
            count = self._workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
            self._idle = deque(self._new_worker() for _ in range(count))
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def __call__(self, trials: Sequence[Trial]) -> Iterator[tuple[int, float]]:
        """(position, value) of each trial, in the order in which they are done."""
        ray = self._ray
        waiting = deque(range(len(trials)))
        losses = [0] * len(trials)
        try:
            while waiting or self._busy:
                while waiting and self._idle:
                    worker, position = self._idle.popleft(), waiting.popleft()
                    self._busy[worker.value.remote(trials[position])] = worker, position
                (answer, *_), _ = ray.wait(list(self._busy))
                worker, position = self._busy.pop(answer)
                try:
                    value = ray.get(answer)
                except ray.exceptions.RayActorError:
                    losses[position] += 1
                    if losses[position] == MAX_LOSSES:
                        raise TfmixError(
                            f"{MAX_LOSSES} workers died while they measured one trial; they may "
                            "lack memory"
                        ) from None
                    waiting.appendleft(position)
                    self._idle.append(self._new_worker())
                    continue
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                self._idle.append(worker)
                yield position, value
        finally:
            # Where the caller stops early, what is under way is of no use to the next call.
            for answer, (worker, _) in self._busy.items():
                ray.cancel(answer)
                self._idle.append(worker)
            self._busy.clear()

    def _new_worker(self) -> Any:
        return self._ray.remote(num_cpus=1)(_Worker).remote(self._recipe)

    def _close(self) -> None:
        for worker in self._idle:
            self._ray.kill(worker)
        self._idle.clear()
        if self._started:
            self._ray.shutdown()


class _Worker:
    """Lives in a process of its own."""

    def __init__(self, recipe: tuple[bytes, dict[str, Any]]):
        # Workers are spread by CPUs: each is to use one.
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        model, settings = recipe
        self._evaluator = ModelEvaluator(_from_bytes(model), **settings)

    def value(self, trial: Trial) -> float:
        ((_, value),) = self._evaluator([trial])
        return value


def _to_bytes(model: tf_keras.Model) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model.keras")
        model.save(path)
        return path.read_bytes()


def _from_bytes(content: bytes) -> tf_keras.Model:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model.keras")
        path.write_bytes(content)
        return tf_keras.models.load_model(path, compile=False)
