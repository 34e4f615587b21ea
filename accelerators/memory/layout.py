"""Where the vector memory keeps the vectors of each token."""

from ..config import AcceleratorConfig
from ..integers import ceil_div

__all__ = ["VectorLayout"]

DEEPEST = 4096
"""Words of a bank that is shared by several token lanes, at most: the depth of an UltraRAM."""


class VectorLayout:
    """Slots of tokens in flight to banks. Slot ``chunk * token_lanes + lane`` lies in bank ``lane // sharing`` of its chunk.

    A bank is shared by as many token lanes as there are row groups in a vector word, if it does not get deeper than 4096
    words: that many cycles pass between two words of a result, so one write port is enough.

    Attributes
    ----------
    words : int
        Words of one slot.
    groups : int
        Row groups of the ternary engine in a vector word.
    sharing : int
        Token lanes per bank.
    banks : int
        Banks per chunk; the last one may have fewer token lanes.
    done : int
        Cycles from the last row group of a result until its last word is written and its magnitudes are known (two additions).
    """

    def __init__(self, config: AcceleratorConfig):
        self.token_lanes = config.token_lanes
        self.words = config.vector_memory // config.vector_lanes
        self.groups = config.vector_lanes // config.table_rows
        self.sharing = max(1, min(self.groups, self.token_lanes, DEEPEST // self.words))
        self.banks = ceil_div(self.token_lanes, self.sharing)
        self.done = max(self.sharing, 2)

    def lanes(self, bank: int) -> range:
        """Token lanes of a bank."""
        return range(bank * self.sharing, min((bank + 1) * self.sharing, self.token_lanes))

    def depth(self, bank: int) -> int:
        """Words of a bank."""
        return len(self.lanes(bank)) * self.words

    def place(self, slot: int) -> tuple[int, int, int]:
        """Chunk, bank and first word of a slot."""
        chunk, lane = divmod(slot, self.token_lanes)
        bank, turn = divmod(lane, self.sharing)
        return chunk, bank, turn * self.words
