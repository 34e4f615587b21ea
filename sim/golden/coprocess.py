"""Golden model of the co-processing scheduler: which experts run on Logic-PIM, which on the xPU (Duplex, arXiv:2409.01141, section 6).

Times are integers from two tables, by token count; both processors work at the same time, each on its experts one after another, and
the larger of the two sums, the makespan, counts. With ``order`` the experts by rising ``(tokens, number)``::

    1. the published rule: all on the xPU, then one after another in that order to Logic-PIM; of all these splits the best, the first of
       several (``k`` experts moved)
    2. all 256 assignments of the ``WINDOW`` = 8 experts around the border: ``order[first .. first + 7]``, with
       ``first = min(max(experts without tokens, k - 4), experts - 8)``, in the order of a Gray code of six of them, with all four
       of the other two each; a better one only if it is better

The rule alone is best where a processor's time does not depend on the tokens; where it does, it misses the optimum by up to 13 %
(``tests/sim/test_coprocess_golden.py``).

At memory-space granularity (``spaces``) the experts of a space, a quarter of them one behind the other, stay together: all 16
assignments, in the order of a Gray code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["SPACES", "WINDOW", "Decision", "decide"]

GRAY = 6
WINDOW = GRAY + 2
SPACES = 4


@dataclass(frozen=True)
class Decision:
    """``mask``: bit e is 1 if expert e goes to Logic-PIM; ``xpu``, ``pim``: the sums of their times; ``error``: a count is beyond the
    tables, and nothing is decided."""

    mask: int
    xpu: int
    pim: int
    error: bool = False

    @property
    def makespan(self) -> int:
        return max(self.xpu, self.pim)


def decide(counts: Sequence[int], xpu: Sequence[int], pim: Sequence[int], *, spaces: bool = False) -> Decision:
    """``counts``: tokens per expert, at least ``WINDOW`` experts; ``xpu[n]``, ``pim[n]``: time for n tokens, 0 for none."""
    if any(count >= len(xpu) for count in counts):
        return Decision(0, 0, 0, True)
    times = [(xpu[count], pim[count]) for count in counts]
    everything = sum(x for x, _ in times)
    if spaces:
        size = -(-len(counts) // SPACES)
        groups = [range(k * size, min((k + 1) * size, len(counts))) for k in range(SPACES)]
        members = [(sum(times[e][0] for e in group), sum(times[e][1] for e in group)) for group in groups]
        _, chosen, (x, p) = _search(members, [0] * SPACES, everything, 0, SPACES)
        return Decision(sum(1 << e for group, on in zip(groups, chosen, strict=True) if on for e in group), x, p)
    order = sorted(range(len(counts)), key=lambda e: (counts[e], e))
    best, moved, loads = everything, 0, (everything, 0)
    x, p = loads
    for k, e in enumerate(order):
        x, p = x - times[e][0], p + times[e][1]
        if max(x, p) < best:
            best, moved, loads = max(x, p), k + 1, (x, p)
    first = min(max(counts.count(0), moved - WINDOW // 2), len(counts) - WINDOW)
    on = [int(position < moved) for position in range(len(counts))]
    window = slice(first, first + WINDOW)
    _, on[window], (x, p) = _search([times[e] for e in order[window]], on[window], *loads, GRAY)
    return Decision(sum(1 << e for e, bit in zip(order, on, strict=True) if bit), x, p)


def _search(members: Sequence[tuple[int, int]], on: list[int], x: int, p: int, gray: int) -> tuple[int, list[int], tuple[int, int]]:
    """The best of all assignments: ``gray`` members flip one after another, the others in all ways at each step."""
    on = list(on)
    best, chosen, loads = max(x, p), list(on), (x, p)

    def flipped(k: int, x: int, p: int) -> tuple[int, int]:
        sign = -1 if on[k] else 1
        return x - sign * members[k][0], p + sign * members[k][1]
    for step in range(1 << gray):
        if step:
            bit = (step & -step).bit_length() - 1
            x, p = flipped(bit, x, p)
            on[bit] ^= 1
        for ways in range(1 << len(members) - gray):
            here = x, p
            for k in range(gray, len(members)):
                if ways >> k - gray & 1:
                    here = flipped(k, *here)
            if max(here) < best:
                best, loads = max(here), here
                chosen = [bit ^ (ways >> k - gray & 1 if k >= gray else 0) for k, bit in enumerate(on)]
    return best, chosen, loads
