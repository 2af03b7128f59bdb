"""`QuantizationPolicy`: the bit-width of every weight and of every activation tensor of a network.

It is what a search finds, what the fake-quant model is built from, and what a person may write or
edit by hand. It knows no network: `validate` checks it against one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NoReturn

from tfmix.errors import FormatError, TfmixError
from tfmix.ir.graph import FIXED_BITS, Graph, as_graph
from tfmix.ir.quant import BIT_WIDTHS, check_bits

#: Marks a JSON document as a policy, and the newest version of it that this module reads.
JSON_FORMAT = "tfmix.QuantizationPolicy"
JSON_VERSION = 1


class Bits(dict[str, int]):
    """A dict {name: bits} that cannot change, so that it can be hashed and shared.

    `dict(bits)` and `bits.copy()` give dicts that can.
    """

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("the bits of a policy cannot change; QuantizationPolicy.replace makes new")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type, tuple[dict[str, int]]]:
        return Bits, (dict(self),)  # pickle and deepcopy would fill an empty one item by item


@dataclass(frozen=True)
class QuantizationPolicy:
    """Bit-widths, each in {2, 4, 8}, in execution order.

    Attributes:
      weight_bits: node name -> bits, for every node of `Graph.weighted_nodes`.
      activation_bits: tensor name -> bits, for every tensor of `Graph.quantized_tensors`, of which
        the network's input is the first.

    A value: frozen, hashable, compared by content whatever the order. Raises TfmixError where a
    bit-width is not legal.
    """

    weight_bits: dict[str, int]
    activation_bits: dict[str, int]

    def __post_init__(self) -> None:
        for field, kind in (("weight_bits", "weights"), ("activation_bits", "activation")):
            bits = getattr(self, field)
            checked = Bits({name: check_bits(b, f"{kind} {name!r}") for name, b in bits.items()})
            object.__setattr__(self, field, checked)

    @classmethod
    def uniform(cls, model: Any, bits: int) -> QuantizationPolicy:
        """Everything at `bits`, but for the network's input and its logits, which stay at 8.

        Args:
          model: a tf_keras model, or whatever else has a graph.
          bits: 2, 4 or 8.
        """
        graph = as_graph(model)
        return cls(
            {node.name: bits for node in graph.weighted_nodes},
            {
                tensor: FIXED_BITS if tensor in graph.fixed_tensors else bits
                for tensor in graph.quantized_tensors
            },
        )

    def replace(
        self,
        *,
        weights: Mapping[str, int] | None = None,
        activations: Mapping[str, int] | None = None,
    ) -> QuantizationPolicy:
        """A copy with other bits for the names given. TfmixError for a name it does not hold."""
        return QuantizationPolicy(
            _replaced(self.weight_bits, weights or {}, "weights"),
            _replaced(self.activation_bits, activations or {}, "activations"),
        )

    def validate(self, graph: Graph) -> None:
        """TfmixError unless the names are exactly those of `graph` and its fixed tensors have 8
        bits. All problems are listed at once."""
        problems = [
            *_name_problems("weights", self.weight_bits, (n.name for n in graph.weighted_nodes)),
            *_name_problems("activations", self.activation_bits, graph.quantized_tensors),
        ]
        for tensor, bits in self.activation_bits.items():
            if tensor in graph.fixed_tensors and bits != FIXED_BITS:
                problems.append(
                    f"activation {tensor!r} has {bits} bits; the network's input and its logits "
                    f"always have {FIXED_BITS}"
                )
        if problems:
            lines = "\n".join(f"  - {problem}" for problem in problems)
            raise TfmixError(f"the policy does not belong to this network:\n{lines}")

    # -- JSON -------------------------------------------------------------------------------

    def to_json(self) -> str:
        """A JSON object {format, version, weight_bits, activation_bits}; keeps the order."""
        document = {
            "format": JSON_FORMAT,
            "version": JSON_VERSION,
            "weight_bits": self.weight_bits,
            "activation_bits": self.activation_bits,
        }
        return json.dumps(document, indent=2)

    @classmethod
    def from_json(cls, text: str) -> QuantizationPolicy:
        """The inverse of `to_json`.

        FormatError where `text` is no JSON, no policy, or of a version this library does not
        read; TfmixError where a bit-width is not legal.
        """
        try:
            document = json.loads(text, object_pairs_hook=_unique_keys)
        except json.JSONDecodeError as error:
            raise FormatError(f"the policy is not valid JSON: {error}") from None
        if not isinstance(document, dict) or document.get("format") != JSON_FORMAT:
            raise FormatError(f'not a policy: "format" is not {JSON_FORMAT!r}')
        if document.get("version") != JSON_VERSION:
            raise FormatError(
                f"policy of version {document.get('version')!r}; this library reads {JSON_VERSION}"
            )
        fields: list[Any] = [document.get(name) for name in ("weight_bits", "activation_bits")]
        if len(document) != 4 or not all(isinstance(field, dict) for field in fields):
            raise FormatError(
                'a policy has "format", "version", and {name: bits} objects "weight_bits" and '
                f'"activation_bits"; found {sorted(document)}'
            )
        return cls(*fields)

    # -- reading ----------------------------------------------------------------------------

    def __str__(self) -> str:
        """Two columns, weights and activations, each in execution order."""
        columns = [
            _column("weights", self.weight_bits),
            _column("activations", self.activation_bits),
        ]
        widths = [max(len(line) for line in column) for column in columns]
        rows = zip_longest(*columns, fillvalue="")
        return "\n".join(f"{left:<{widths[0]}}   {right}".rstrip() for left, right in rows)


def _column(title: str, bits: Mapping[str, int]) -> list[str]:
    """Lines of one column of the table; the head counts the tensors of each width."""
    count = Counter(bits.values())
    head = ", ".join(f"{count[b]} x {b}" for b in reversed(BIT_WIDTHS) if count[b])
    width = max(map(len, bits), default=0)
    return [f"{title} ({head} bits)"] + [f"  {name:<{width}} {b}" for name, b in bits.items()]


def _replaced(bits: Mapping[str, int], new: Mapping[str, int], kind: str) -> dict[str, int]:
    unknown = [name for name in new if name not in bits]
    if unknown:
        raise TfmixError(f"the policy holds no {kind} {unknown}; it holds {list(bits)}")
    return {**bits, **new}


def _name_problems(kind: str, found: Mapping[str, int], wanted: Iterable[str]) -> list[str]:
    wanted = list(wanted)
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in set(wanted)]
    return [
        f"{kind}: {what} {names}"
        for what, names in (("missing", missing), ("unknown", unknown))
        if names
    ]


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a key occur twice and Python keeps the last: in a policy it is a mistake."""
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise FormatError(f"the policy names {twice} more than once")
    return dict(pairs)
