"""What a search method gets, what it gives, and how it is found by name.

How to add a searcher
---------------------
A search method is one function in one module of this package. One that asks for nothing returns a
policy:

    from tfmix.policy.search.base import SearchProblem, searcher

    @searcher("greedy")
    def search(problem: SearchProblem) -> QuantizationPolicy:
        \"\"\"One line of what it minimises, and where it is from.\"\"\"
        policy = problem.start()
        ...
        return policy

One that learns from the network is a generator: it yields batches of trials, is sent the measured
value of each, and returns the policy in the end:

    @searcher("coin")
    def search(problem: SearchProblem, *, episodes: int = 100) -> Steps:
        best = None
        for _ in range(episodes):
            policy = ...
            (accuracy,) = yield [Trial(policy)]
            if best is None or accuracy > best[0]:
                best = accuracy, policy
        return Found(best[1], score=best[0])

Who runs the generator decides where trials are measured: in this process, on a cluster, or as
epochs of Keras' `fit`. Since a generator does the same again when it is sent the same values, a
search that was stopped resumes by sending it what the journal holds (`session.py`); no method has
anything to save.

1. Write the module and import it in `tfmix/policy/search/__init__.py`: that is what registers it.
   From then on `quantize_model(..., search="greedy")` finds it. Keyword arguments beside the
   problem are the method's options, with defaults.
2. Begin with `problem.start()`: 8 bits everywhere, pinned bits in their place. Change bits with
   `policy.replace`, and only those that `may_cut_weights` and `may_cut_activation` allow: the
   network's input and its logits always have 8 bits, and what a person pinned stays pinned.
3. Ask `problem.memory` what a policy costs. `ram_lower_bound` is fast and belongs inside a loop;
   `ram_bytes` plans an arena (milliseconds) and `flash_bytes` may write a whole file (tens of
   milliseconds): they judge at the end. `problem.memory.at(bits)` are the steps by which a network
   with these bits runs, chains of layers among them, and what they take under other bits
   (`live_bytes`, fast). The accounting is the model's business; a searcher works the same under all
   of them.
4. Yield as many trials at once as do not depend on one another's values: they may run side by side.
   A searcher never sees a model, weights or TensorFlow.
5. Return a policy that holds the budget by `ram_bytes` and `flash_bytes`. Where there is none,
   raise BudgetError with the tensor that does not fit and the smallest budget that would do; never
   return the nearest miss, and never search for ever.
6. Be deterministic: every random choice comes from a generator made with `problem.seed`.
7. The common tests in `tests/policy/search/` run over every registered name: the result holds the
   budget, bits are legal, pinned bits stay, an impossible budget is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

from tfmix.budget import Budget
from tfmix.errors import TfmixError
from tfmix.ir.graph import FIXED_BITS, Graph
from tfmix.ir.quant import BIT_WIDTHS, check_bits
from tfmix.policy.cost.memory import MemoryModel, StreamingMemory
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.sensitivity import SensitivityTable


@dataclass(frozen=True)
class Pinned:
    """Bits a person has decided: node name -> bits, tensor name -> bits."""

    weights: Mapping[str, int] = field(default_factory=dict, hash=False)
    activations: Mapping[str, int] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, graph: Graph, pinned: Mapping[str, Mapping[str, int]] | None) -> Pinned:
        """From {"weights": {name: bits}, "activations": {name: bits}}, each optional.

        TfmixError for other keys, names that are not the graph's, and bits that are not legal.
        """
        given: dict[str, Any] = dict(pinned or {})
        weights = dict(given.pop("weights", None) or {})
        activations = dict(given.pop("activations", None) or {})
        if given:
            raise TfmixError(f"pinned: {sorted(given)} is not one of ('weights', 'activations')")
        for kind, bits, known in (
            ("weights", weights, [node.name for node in graph.weighted_nodes]),
            ("activations", activations, list(graph.quantized_tensors)),
        ):
            unknown = [name for name in bits if name not in known]
            if unknown:
                raise TfmixError(f"pinned {kind}: no {unknown} in the network; it has {known}")
            for name in bits:
                bits[name] = check_bits(bits[name], f"pinned {kind} {name!r}")
        for name, width in activations.items():
            if name in graph.fixed_tensors and width != FIXED_BITS:
                raise TfmixError(
                    f"pinned activations {name!r}: {width} bits; the network's input and its "
                    f"logits always have {FIXED_BITS}"
                )
        return cls(weights, activations)


@dataclass(frozen=True)
class Trial:
    """A question to the network: how good is it under `policy`?

    measure: "accuracy", in [0, 1], more is better; "loss", in nats a sample, less is better: the
      mean cross entropy where there are labels, else the mean KL divergence from the float
      network's output
    train: measure after one quantization-aware epoch from the pretrained weights, not at once
    float_activations: measure with weights quantized and activations in float
    note: what the method wants to find again in the history, for instance {"phase": "weights"};
      JSON values. "left", where it is known, is the number of trials from the first of this batch
      to the end of the search: it tells a person how long to wait
    """

    policy: QuantizationPolicy
    measure: Literal["accuracy", "loss"] = "accuracy"
    train: bool = False
    float_activations: bool = False
    note: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Found:
    """What a method found: the policy, what it measured of it, and a proof of optimality if any.

    score: the value of the policy's own trial, None where none was made
    proof: of the method's making, with a `__str__` a person can read
    table: the sensitivities that the policy was computed from, if any
    """

    policy: QuantizationPolicy
    score: float | None = None
    proof: Any = None
    table: SensitivityTable | None = None


#: What a searcher that asks for trials returns: see "How to add a searcher".
Steps = Generator[Sequence[Trial], Sequence[float], "Found | QuantizationPolicy"]


@dataclass(frozen=True)
class SearchProblem:
    """Find the best policy for `graph` that holds `budget`, as `memory` counts.

    measures: what trials may ask for: "accuracy" needs labelled data, "loss" any; none without data
    trains:   trials may train
    float_accuracy: accuracy of the float network, None where there are no labels
    estimate: measures a `SensitivityTable` from a few backward passes, for networks too large to
              measure tensor by tensor; None without data
    seed:     of every random choice
    """

    memory: MemoryModel
    budget: Budget
    pinned: Pinned = Pinned()
    measures: frozenset[str] = frozenset()
    trains: bool = False
    float_accuracy: float | None = None
    estimate: Callable[[], SensitivityTable] | None = None
    seed: int = 0

    @property
    def graph(self) -> Graph:
        return self.memory.graph

    def start(self) -> QuantizationPolicy:
        """8 bits everywhere but where pinned."""
        return QuantizationPolicy.uniform(self.graph, BIT_WIDTHS[-1]).replace(
            weights=self.pinned.weights, activations=self.pinned.activations
        )

    def within(self, budget: Budget) -> SearchProblem:
        """The same problem with another budget, and chains of layers that fit that."""
        memory = self.memory
        if isinstance(memory, StreamingMemory) and budget.streaming_ram is not None:
            memory = replace(memory, ram=budget.streaming_ram)
        return replace(self, budget=budget, memory=memory)

    def fits(self, policy: QuantizationPolicy) -> bool:
        """Whether `policy` holds the budget, by `ram_bytes` and `flash_bytes`; cheap where not."""
        budget, memory = self.budget, self.memory
        if budget.ram is not None and (
            memory.ram_lower_bound(policy.activation_bits) > budget.ram
            or memory.ram_bytes(policy) > budget.ram
        ):
            return False
        return budget.flash is None or (
            memory.flash_lower_bound(policy) <= budget.flash
            and memory.flash_bytes(policy) <= budget.flash
        )

    def require(self, measure: str, method: str, *, train: bool = False) -> None:
        """TfmixError unless trials may ask for `measure`, and train if they have to.

        method: the name of who asks
        """
        if measure not in self.measures:
            needed = "labelled data" if measure == "accuracy" else "data"
            raise TfmixError(f"search {method!r} measures {measure}: it needs {needed}")
        if train and not self.trains:
            raise TfmixError(f"search {method!r} is to train in each trial: it needs training data")

    def may_cut_weights(self, name: str) -> bool:
        """Whether a search may choose the weight bits of this node."""
        return name not in self.pinned.weights

    def may_cut_activation(self, tensor: str) -> bool:
        """Whether a search may choose the bits of this quantized tensor."""
        return tensor not in self.pinned.activations and tensor not in self.graph.fixed_tensors


class Searcher(Protocol):
    """A search method: see "How to add a searcher" above."""

    def __call__(
        self, problem: SearchProblem, *args: Any, **options: Any
    ) -> QuantizationPolicy | Found | Steps: ...


_Method = TypeVar("_Method", bound=Searcher)


_SEARCHERS: dict[str, Searcher] = {}


def searcher(name: str) -> Callable[[_Method], _Method]:
    """Decorator: registers a search method under `name`."""

    def register(method: _Method) -> _Method:
        if name in _SEARCHERS:
            raise ValueError(f"there already is a searcher named {name!r}")
        _SEARCHERS[name] = method
        return method

    return register


def searcher_names() -> tuple[str, ...]:
    """The names `get_searcher` knows."""
    return tuple(_SEARCHERS)


def get_searcher(name: str) -> Searcher:
    """The search method registered under `name`; TfmixError with the names there are."""
    if name not in _SEARCHERS:
        raise TfmixError(f"search {name!r} is not one of {searcher_names()}")
    return _SEARCHERS[name]
