"""Entries of a batch, defined once for hardware, golden model and host: what the accelerator does with which sequence in a step.
Plain Python.

A batch is a list of 32-bit words, each in the low bits of a bus word: entries, and behind an entry that does not ``feed`` the ids of
its tokens. Tokens of all entries go through the model together, at most ``token_lanes`` of them, when the whole list has been read:
so a list that frees a sequence for which it has tokens contradicts itself. What is no batch (``ILLEGAL_BATCH``) or contradicts itself
(``CACHE_FULL``) stops the accelerator, and all sequences are gone."""

from dataclasses import dataclass
from enum import IntEnum

__all__ = ["COUNT_BITS", "REFUSED", "SEQUENCE_BITS", "SWAP_IN", "SWAP_OUT", "Entry", "EntryKind", "refusal"]

COUNT_BITS, SEQUENCE_BITS = 18, 6
OTHER, FEED, SAMPLE, SEQUENCE, KIND = 18, 22, 23, 24, 30
"""Lowest bits of the fields."""

REFUSED = 1 << 31
"""In a word of the token output: not a token, but an entry that was refused; ``SequenceError`` from bit 16 on, its sequence below."""


class EntryKind(IntEnum):
    """What is done with ``sequence``."""

    GROUP = 0
    """Nothing; the next ``other`` entries with tokens (fewer, if the list ends) are a group: their sequences had at least the first
    ``count`` positions before, whole blocks, and share them. Attention reads those once for all tokens that fit its lanes."""
    TOKENS = 1
    """``count`` tokens follow at its end; with ``sample`` the last one's logits give a new token, with ``feed`` the (one) token is the
    one that the sequence sampled last."""
    FORK = 2
    """It begins with the first ``count`` positions of ``other``, in whose blocks they stay: one that is not whole is copied when one of
    the two goes on. Before all entries with tokens, which are not in the cache yet."""
    FREE = 3
    """It has no positions any more; or, where the cache swaps, what ``other`` says: it leaves the cache (``SWAP_OUT``), or comes back
    (``SWAP_IN``), before anything behind it in the list. There are no groups then."""


SWAP_OUT, SWAP_IN = 1, 2


@dataclass(frozen=True)
class Entry:
    """One entry. ``ValueError`` names a field that does not fit."""

    kind: EntryKind
    sequence: int
    count: int = 0
    other: int = 0
    sample: bool = False
    feed: bool = False

    def __post_init__(self) -> None:
        for name, bits in (("sequence", SEQUENCE_BITS), ("other", SEQUENCE_BITS), ("count", COUNT_BITS)):
            if not 0 <= getattr(self, name) < 1 << bits:
                raise ValueError(f"{self.kind.name}: {name} must be in 0..{(1 << bits) - 1}, not {getattr(self, name)}")

    def encode(self) -> int:
        """The word in memory."""
        tokens = self.kind is EntryKind.TOKENS
        more = self.sample << SAMPLE | self.feed << FEED if tokens else self.other << OTHER
        return self.kind << KIND | self.sequence << SEQUENCE | more | self.count


def refusal(word: int) -> tuple[int, int] | None:
    """(sequence, error) if a word of the token output says that an entry was refused."""
    return (word & 0xFFFF, word >> 16 & 0x7FFF) if word & REFUSED else None
