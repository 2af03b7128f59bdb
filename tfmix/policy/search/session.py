"""Runs a search method: hands out its trials, takes their values, keeps history and journal.

A `SearchSession` is passive, so that whoever measures is in charge: a loop in this process (`run`),
workers of a cluster, or the epochs of Keras' `fit`:

    session = SearchSession("ilp", problem, journal="search.jsonl")
    while not session.done:
        for index, trial in session.trials:  # in any order, side by side
            session.tell(index, measure(trial))
    print(session.result)
"""

from __future__ import annotations

import inspect
import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tfmix.budget import Budget, format_bytes
from tfmix.errors import TfmixError
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search import journal as journals
from tfmix.policy.search.base import Found, Searcher, SearchProblem, Steps, Trial, get_searcher
from tfmix.policy.sensitivity import SensitivityTable


@dataclass(frozen=True)
class Evaluation:
    """One measured trial.

    value:       see Trial.measure
    flash_bytes, ram_bytes: of the trial's policy, as the problem's memory model counts
    fits:        whether they hold the budget
    best:        position in the history of the best evaluation up to and with this one, None as
                 long as none would do as a result; see `best_of`
    """

    trial: Trial
    value: float
    flash_bytes: int
    ram_bytes: int
    fits: bool
    best: int | None


@dataclass(frozen=True)
class SearchResult:
    """What a search found, and how it got there; `print` it.

    Attributes:
      policy: the bits that were found.
      score: what was measured of the policy, None if nothing was; see `measure`.
      flash_bytes, ram_bytes: of the policy, as the problem's memory model counts.
      proof: what the method can prove of its policy, None for most methods.
      evaluations: all that was measured, in the order in which values came.
      interrupted: the search was stopped: the policy is the best of those measured so far.
      table: the sensitivities that the policy was computed from, if any.
    """

    policy: QuantizationPolicy
    method: str
    seed: int
    score: float | None
    flash_bytes: int
    ram_bytes: int
    budget: Budget
    proof: Any = None
    evaluations: tuple[Evaluation, ...] = field(default=(), repr=False)
    interrupted: bool = False
    table: SensitivityTable | None = field(default=None, repr=False)

    @property
    def scored(self) -> Evaluation | None:
        """The evaluation that `score` is from."""
        for evaluation in reversed(self.evaluations):
            if evaluation.trial.policy == self.policy and evaluation.value == self.score:
                return evaluation
        return None

    @property
    def measure(self) -> str | None:
        """What `score` is: "accuracy" or "loss"; None without one."""
        return self.scored.trial.measure if self.scored else None

    def __str__(self) -> str:
        title = f"search {self.method!r}, seed {self.seed}"
        if self.interrupted:
            title += ", INTERRUPTED: the best so far"
        lines = [title]
        if self.score is not None:
            how = " after an epoch of training" if self.scored and self.scored.trial.train else ""
            lines.append(f"{self.measure or 'score'} {self.score:.4f}{how}")
        lines.append(f"FLASH {_use(self.flash_bytes, self.budget.flash)}")
        lines.append(f"RAM {_use(self.ram_bytes, self.budget.ram)}")
        if self.evaluations:
            lines.append(f"{len(self.evaluations)} trials measured")
        if self.proof is not None:
            lines.append(str(self.proof))
        return "\n".join([*lines, str(self.policy)])


class SearchSession:
    """A search in progress.

    method:   name of a registered search method
    journal:  a file that holds every value before it is used; a search killed at any point goes on
              from there when it is started again, and ends with the same result
    identity: of data, weights and all else that values depend on; a journal serves one only
    options:  keyword arguments of the method
    wrap:     put around the method, it may ask for trials of its own

    Construction starts the method and sends it what the journal holds. It raises what the method
    raises (BudgetError), and TfmixError for unknown methods and options and unfit journals.
    """

    def __init__(
        self,
        method: str,
        problem: SearchProblem,
        *,
        journal: str | os.PathLike[str] | None = None,
        identity: str = "",
        options: Mapping[str, Any] | None = None,
        wrap: Callable[[Searcher], Searcher] | None = None,
    ) -> None:
        options = dict(options or {})
        search = get_searcher(method)
        _check_options(method, search, options)
        search = wrap(search) if wrap else search
        self.method = method
        self.problem = problem
        self.evaluations: list[Evaluation] = []
        self.replayed = 0
        self._journal: journals.Journal | None = None
        if journal is not None:
            header = journals.header(method, problem, options, identity)
            self._journal = journals.Journal(journal, header)
        self._batch: tuple[Trial, ...] = ()
        self._first = 0  # number of the batch's first trial
        self._values: dict[int, float] = {}  # of the batch, by number
        self._sizes: dict[QuantizationPolicy, tuple[int, int]] = {}
        self._result: SearchResult | None = None
        self._steps: Steps | None = None
        try:
            found = search(replace(problem, estimate=self._estimate_of(problem)), **options)
            if isinstance(found, Generator):
                self._steps = found
                self._advance(None)
            else:
                self._finish(found)
        except BaseException:
            self._close()
            raise

    # -- what is asked ------------------------------------------------------------------------

    @property
    def trials(self) -> tuple[tuple[int, Trial], ...]:
        """(number, trial) of those that may be measured now; empty when the search is done."""
        return tuple(
            (index, trial)
            for index, trial in enumerate(self._batch, start=self._first)
            if index not in self._values
        )

    @property
    def total(self) -> int | None:
        """How many trials there will be in all; None where the method does not say."""
        left = max((t.note["left"] for t in self._batch if "left" in t.note), default=None)
        return None if left is None else self._first + left

    def tell(self, index: int, value: float) -> None:
        """The value of the trial of that number. With a batch's last value the method goes on.

        TfmixError for a number that was not asked for, and for a value that is no number or no
        accuracy: it is neither journaled nor used.
        """
        pending = dict(self.trials)
        if index not in pending:
            raise TfmixError(f"trial {index} is not one of those asked for, {list(pending)}")
        trial = pending[index]
        value = float(value)
        _check_value(index, trial, value)
        flash_bytes, ram_bytes = self._sizes_of(trial.policy)
        if self._journal is not None:
            record = {"value": value, "flash_bytes": flash_bytes, "ram_bytes": ram_bytes}
            self._journal.add_value(index, trial, record)
        self._take(index, trial, value)
        if not self.trials:
            self._go_on()

    # -- what came of it ----------------------------------------------------------------------

    @property
    def done(self) -> bool:
        return self._result is not None

    @property
    def result(self) -> SearchResult:
        """TfmixError as long as the search is not done."""
        if self._result is None:
            raise TfmixError(f"search {self.method!r} has trials left: {len(self.trials)} now")
        return self._result

    @property
    def best(self) -> Evaluation | None:
        """The best evaluation so far, see `best_of`."""
        best = self.evaluations[-1].best if self.evaluations else None
        return None if best is None else self.evaluations[best]

    def best_so_far(self) -> SearchResult:
        """For whoever cannot wait: the best policy measured that fits. TfmixError if there is none.

        The session stays as it is, its journal too.
        """
        if self._result is not None:
            return self._result
        if self.best is None:
            kept = "" if self._journal is None else f"; {self._journal.path} keeps what it measured"
            raise TfmixError(
                f"search {self.method!r} was stopped after {len(self.evaluations)} trials, before "
                f"it had measured any policy that holds the budget{kept}"
            )
        return self._make_result(Found(self.best.trial.policy, self.best.value), interrupted=True)

    # -- running the method -------------------------------------------------------------------

    def _go_on(self) -> None:
        try:
            self._advance([self._values[self._first + i] for i in range(len(self._batch))])
        except BaseException:
            self._close()
            raise

    def _advance(self, values: Sequence[float] | None) -> None:
        """Sends values until the method asks for something that the journal does not hold."""
        while True:
            self._first += len(self._batch)
            self._batch, self._values = (), {}
            try:
                batch = tuple(self._steps.send(values))  # type: ignore[arg-type]  # None begins
            except StopIteration as stop:
                return self._finish(stop.value)
            self._batch = batch
            self._replay()
            if self.trials:
                return None
            values = [self._values[self._first + i] for i in range(len(batch))]

    def _replay(self) -> None:
        for index, trial in self.trials if self._journal is not None else ():
            record = self._journal.find(index, trial)
            if record is not None:
                self._sizes[trial.policy] = record["flash_bytes"], record["ram_bytes"]
                self._take(index, trial, record["value"])
                self.replayed += 1

    def _take(self, index: int, trial: Trial, value: float) -> None:
        self._values[index] = value
        flash_bytes, ram_bytes = self._sizes_of(trial.policy)
        fits = _fits(flash_bytes, self.problem.budget.flash) and _fits(
            ram_bytes, self.problem.budget.ram
        )
        new = Evaluation(trial, value, flash_bytes, ram_bytes, fits, best=None)
        best = None if self.best is None else self.evaluations[-1].best
        if best_of(self.best, new) is new:
            best = len(self.evaluations)
        self.evaluations.append(replace(new, best=best))

    def _finish(self, found: Found | QuantizationPolicy) -> None:
        if isinstance(found, QuantizationPolicy):
            found = Found(found)
        if not isinstance(found, Found):
            raise TypeError(f"search {self.method!r} returned {found!r}, no policy")
        self._result = self._make_result(found)
        self._close()

    def _make_result(self, found: Found, interrupted: bool = False) -> SearchResult:
        flash_bytes, ram_bytes = self._sizes_of(found.policy)
        return SearchResult(
            policy=found.policy,
            method=self.method,
            seed=self.problem.seed,
            score=found.score,
            flash_bytes=flash_bytes,
            ram_bytes=ram_bytes,
            budget=self.problem.budget,
            proof=found.proof,
            evaluations=tuple(self.evaluations),
            interrupted=interrupted,
            table=found.table,
        )

    def _sizes_of(self, policy: QuantizationPolicy) -> tuple[int, int]:
        """FLASH and RAM. Asking for FLASH may write a file: once per policy is enough."""
        if policy not in self._sizes:
            memory = self.problem.memory
            self._sizes[policy] = memory.flash_bytes(policy), memory.ram_bytes(policy)
        return self._sizes[policy]

    def _estimate_of(self, problem: SearchProblem) -> Callable[[], SensitivityTable] | None:
        """`problem.estimate`, through the journal."""
        if problem.estimate is None or self._journal is None:
            return problem.estimate
        journal, estimate = self._journal, problem.estimate

        def journaled() -> SensitivityTable:
            if journal.estimate is None:
                journal.add_estimate(estimate())
            assert journal.estimate is not None
            return journal.estimate

        return journaled

    def _close(self) -> None:
        if self._journal is not None:
            self._journal.close()


def best_of(one: Evaluation | None, other: Evaluation) -> Evaluation | None:
    """The one that is the better result, `one` on a tie; None if neither would do as one.

    Only what fits and was measured with all of its bits will do. Accuracy says more than loss, and
    accuracy after training more than before; of the same kind the better value wins.
    """

    def rank(evaluation: Evaluation) -> tuple[bool, bool, float]:
        trial, value = evaluation.trial, evaluation.value
        accuracy = trial.measure == "accuracy"
        return accuracy, trial.train, value if accuracy else -value

    if not other.fits or other.trial.float_activations:
        return one
    return other if one is None or rank(other) > rank(one) else one


#: Measures trials: (position in the sequence, value) of each as it completes, in any order.
EvaluateMany = Callable[[Sequence[Trial]], Iterable[tuple[int, float]]]


def run(
    session: SearchSession,
    evaluate_many: EvaluateMany,
    *,
    progress: Callable[[SearchSession], None] | None = None,
) -> SearchResult:
    """Runs a search to its end.

    evaluate_many: measures a batch of trials; it is asked again for those it leaves out
    progress:      is called after each value; None prints a line now and then

    KeyboardInterrupt ends the search with the best so far (`interrupted`), or TfmixError where
    there is none. What `evaluate_many` raises is passed on; the journal holds all values before.
    """
    progress = progress or PrintProgress()
    try:
        while not session.done:
            pending = session.trials
            told = 0
            for position, value in evaluate_many([trial for _, trial in pending]):
                session.tell(pending[position][0], value)
                told += 1
                progress(session)
            if not told:
                raise TfmixError(f"evaluate_many measured none of {len(pending)} trials")
    except KeyboardInterrupt:
        return session.best_so_far()
    return session.result


class PrintProgress:
    """Prints the best value, its use of the budget and the time left: every `seconds`, and at the
    end."""

    def __init__(self, seconds: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._started = self._printed = clock()

    def __call__(self, session: SearchSession) -> None:
        now = self._clock()
        if session.done or now - self._printed >= self._seconds:
            self._printed = now
            print(self.line(session, now - self._started), flush=True)

    @staticmethod
    def line(session: SearchSession, elapsed: float) -> str:
        """For instance: ilp: 37 of 120 trials, best accuracy 0.8421 (FLASH 96 %), 2 min left.

        elapsed: seconds since the first trial that was not in the journal.
        """
        count = len(session.evaluations)
        parts = [f"{session.method}: {count} trials"]
        if session.total is not None and not session.done:
            parts[0] = f"{session.method}: {count} of {session.total} trials"
        best = session.best
        if best is not None:
            budget = session.problem.budget
            uses = [
                f"{what} {100 * used / limit:.0f} %"
                for what, used, limit in (
                    ("FLASH", best.flash_bytes, budget.flash),
                    ("RAM", best.ram_bytes, budget.ram),
                )
                if limit is not None
            ]
            use = f" ({', '.join(uses)})" if uses else ""
            parts.append(f"best {best.trial.measure} {best.value:.4f}{use}")
        if session.done:
            parts.append(f"done in {_duration(elapsed)}")
        elif session.total is not None and count > session.replayed:
            each = elapsed / (count - session.replayed)
            parts.append(f"{_duration(each * max(session.total - count, 0))} left")
        return ", ".join(parts)


def _check_options(method: str, search: Any, options: Mapping[str, Any]) -> None:
    known = list(inspect.signature(search).parameters)[1:]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TfmixError(f"search {method!r} has no option {unknown}; it has {known}")


def _check_value(index: int, trial: Trial, value: float) -> None:
    if math.isfinite(value) and not (trial.measure == "accuracy" and not 0 <= value <= 1):
        return
    legal = "in [0, 1]" if trial.measure == "accuracy" else "a finite number"
    note = f" ({', '.join(f'{k} {v}' for k, v in trial.note.items())})" if trial.note else ""
    raise TfmixError(
        f"trial {index}{note}: the {trial.measure} is {value}, not {legal}, under the policy\n"
        f"{trial.policy}"
    )


def _fits(size: int, limit: int | None) -> bool:
    return limit is None or size <= limit


def _use(size: int, limit: int | None) -> str:
    if limit is None:
        return f"{size:,} B"
    return f"{size:,} B, {100 * size / limit:.1f} % of {format_bytes(limit)}"


def _duration(seconds: float) -> str:
    """For instance 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
