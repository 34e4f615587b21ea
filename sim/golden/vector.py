"""Golden models of the vector memory and of the shifts that align a vector's heads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...accelerators.config import AcceleratorConfig
from .numerics import bit_length

__all__ = ["Access", "VectorBanks", "head_shifts"]


@dataclass(frozen=True)
class Access:
    """Words of one slot, ``token``: ``base + i``, and ``base + offset + i`` in turn with it when ``paired``."""

    token: int
    base: int
    words: int
    paired: int = 0
    offset: int = 0

    def addresses(self, *, beyond: bool = False) -> Iterator[int | None]:
        """Word addresses in order; ``None`` without end after the final one if ``beyond``."""
        for i in range(self.words):
            yield (self.base + i) % (1 << 16)
            if self.paired:
                yield (self.base + self.offset + i) % (1 << 16)
        while beyond:
            yield None


class VectorBanks:
    """The vectors of all slots (``chunk * token_lanes + lane``); an element that was never written is ``None``."""

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self._elements: dict[tuple[int, int], int] = {}  # (slot, element) -> value

    def write(self, access: Access, packet: Sequence[Sequence[int]]) -> None:
        """Words of one packet; those beyond the access are dropped."""
        lanes = self.config.vector_lanes
        for word, address in zip(packet, access.addresses(beyond=True), strict=False):
            if address is not None:
                self._elements |= {(access.token, address * lanes + lane): value for lane, value in enumerate(word)}

    def write_sums(self, chunk: int, base: int, split: int, groups: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
        """A matrix result, one item of all token lanes per row group; bit lengths of the largest magnitudes per token lane."""
        rows, lanes = self.config.table_rows, self.config.vector_lanes
        largest = [[0, 0] for _ in range(self.config.token_lanes)]
        for group, sums in enumerate(groups):
            for position, value in enumerate(sums):
                lane, row = divmod(position, rows)
                self._elements[chunk * self.config.token_lanes + lane, base * lanes + group * rows + row] = value
                half = int(group >= split)
                largest[lane][half] = max(largest[lane][half], abs(value))
        return [(bit_length(first), bit_length(second)) for first, second in largest]

    def read(self, access: Access) -> list[list[int | None]]:
        """The words of an access."""
        lanes = self.config.vector_lanes
        return [[self._elements.get((access.token, address * lanes + lane)) for lane in range(lanes)]
                for address in access.addresses() if address is not None]


def head_shifts(exponents: Sequence[int], words: int) -> list[int]:
    """Right shift of every word of a vector of heads, ``words`` each: to the largest exponent, at most 63."""
    top = max(exponents)
    return [min(top - exponent, 63) for exponent in exponents for _ in range(words)]
