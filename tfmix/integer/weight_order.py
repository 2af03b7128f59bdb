"""The order in which the weights of a layer are stored.

`IntegerWeights.values` is in logical order. The constants block holds the weights of conv2d and
fully_connected in tiles, each of a few channels by a few products, so that a Cortex-M unpacks a
word of weights for several channels at once. docs/format.md draws the tiles,
kernels/src/weight_tiles.h is the twin of this file in C++.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tfmix.integer.model import Kernel


class LogicalOrder:
    """As `IntegerWeights.values`, row-major, without padding."""

    def stored(self, shape: tuple[int, ...]) -> int:
        """Elements in the constants block."""
        return math.prod(shape)

    def arrange(self, values: np.ndarray) -> np.ndarray:
        """Logical values -> the stored elements, uint8 [stored]."""
        return values.reshape(-1)

    def restore(self, elements: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Inverse of `arrange`."""
        return elements.reshape(shape)


@dataclass(frozen=True)
class Tiles:
    """Tiles of `channels` x `depth` weights; the products of a layer are the axis of depth.

    The tiles of a group of channels follow each other from the first product to the last, then
    come those of the next group. Channels and products are padded with zeros to whole tiles.

    positions: [channels * depth]: where weight (c, k) of a tile lies in it, at c * depth + k
    """

    channels: int
    depth: int
    positions: tuple[int, ...]

    @cached_property
    def _logical(self) -> np.ndarray:
        """Position in the tile -> c * depth + k."""
        return np.argsort(self.positions)

    def _tiles(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Groups of channels, tiles of a group."""
        return -(-shape[0] // self.channels), -(-math.prod(shape[1:]) // self.depth)

    def stored(self, shape: tuple[int, ...]) -> int:
        return math.prod(self._tiles(shape)) * len(self.positions)

    def arrange(self, values: np.ndarray) -> np.ndarray:
        groups, tiles = self._tiles(values.shape)
        rows = values.reshape(len(values), -1)
        padded = np.zeros((groups * self.channels, tiles * self.depth), np.uint8)
        padded[: rows.shape[0], : rows.shape[1]] = rows
        by_tile = padded.reshape(groups, self.channels, tiles, self.depth).transpose(0, 2, 1, 3)
        return by_tile.reshape(groups * tiles, -1)[:, self._logical].reshape(-1)

    def restore(self, elements: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        groups, tiles = self._tiles(shape)
        by_tile = elements.reshape(groups * tiles, -1)[:, list(self.positions)]
        by_tile = by_tile.reshape(groups, tiles, self.channels, self.depth).transpose(0, 2, 1, 3)
        rows = by_tile.reshape(groups * self.channels, tiles * self.depth)
        return rows[: shape[0], : math.prod(shape[1:])].reshape(shape)


def _byte_pairs() -> Tiles:
    """8 bits: 2 channels x 4 products in two words, first the even products, then the odd ones."""
    return Tiles(2, 4, tuple(4 * (k % 2) + 2 * (k // 2) + c for c in range(2) for k in range(4)))


def _side_by_side(channels: int) -> Tiles:
    """4 and 2 bits: byte k of a word holds product k of all the tile's channels."""
    return Tiles(channels, 4, tuple(channels * k + c for c in range(channels) for k in range(4)))


def _field_pairs() -> Tiles:
    """2 bits on both sides: 2 channels x 8 products in a word.

    Rotated right by 2 * c + 8 * (k div 4) bits, the word has product k of channel c at bit 12, 0,
    28 or 16, by k mod 4.
    """
    bits = (12, 0, 28, 16)
    return Tiles(
        2,
        8,
        tuple((bits[k % 4] + 2 * c + 8 * (k // 4)) % 32 // 2 for c in range(2) for k in range(8)),
    )


_LOGICAL = LogicalOrder()
_TILES = {8: _byte_pairs(), 4: _side_by_side(2), 2: _side_by_side(4)}
_TILES_OF_2_BY_2_BITS = _field_pairs()


def weight_order(kernel: Kernel, input_bits: int, weight_bits: int) -> LogicalOrder | Tiles:
    """The order in which the weights of a layer are stored."""
    if kernel not in (Kernel.CONV2D, Kernel.FULLY_CONNECTED):
        return _LOGICAL
    if (input_bits, weight_bits) == (2, 2):
        return _TILES_OF_2_BY_2_BITS
    return _TILES[weight_bits]
