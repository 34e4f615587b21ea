"""Traces of the controllers of one text: contiguous, and sinks with a ring."""

from ...rtl_gen.emit import Emitted
from .records import Judgement, Place, Trace

__all__ = ["ContiguousTrace", "WindowTrace"]

LAYERS, HEADS = 2, 3


def nothing(judgement: Judgement) -> None:
    """Nothing is issued."""


class _TextTrace(Trace):
    """Texts of random lengths, each with other parameters; what was written is kept by (layer, head, position)."""

    def __init__(self, emitted: Emitted, seed: int, operations: int):
        super().__init__(emitted, seed, quiet=64)
        config = emitted.sidecar["config"]
        self.most = config["max_context"]
        self.longest_record = (1 << next(port["width"] for port in emitted.sidecar["ports"] if port["name"] == "record_beats")) - 1
        while self.operations < operations:
            self.content: dict[tuple[int, int, int], int] = {}
            self.beats = self.random.choice((1, 2, 3, self.random.randint(1, self.longest_record // 2)))
            self.stride = self.most * self.beats * self.bytes_per_beat
            self.bases = self._bases()
            self.settle()
            self.judge("new text", lambda judgement: judgement.memory.clear())
            self.set(record_beats=self.beats, head_stride=self.stride)
            self.text(min(operations, self.operations + self.random.choice((300, 1500))))
        self.settle()

    def _bases(self) -> list[int]:
        """Of two layers; the second one's rows go around the end of the address space."""
        first = HEADS * self.stride + self.random.randrange(1 << 16) * self.bytes_per_beat
        return [first, (1 << 32) - self.random.randrange(1, 64) * self.bytes_per_beat]

    def text(self, until: int) -> None:
        raise NotImplementedError

    def ask(self, write: int, layer: int, head: int, position: int, count: int, allowed: bool) -> None:
        """Rows of one head: written with new tokens, or read."""
        payload = {"write": write, "base": self.bases[layer], "head": head, "position": position, "count": count}
        place = Place(self.bases[layer], head, self.stride, self.beats * self.bytes_per_beat)
        self.seen["refused" if not allowed else "written" if write else "read"] += 1
        if not allowed:
            self.fails = True
            self.request("i_request", payload, nothing)
            return
        keys = [(layer, head, each) for each in range(position, position + count)]
        if write:
            tokens = [self.token() for _ in keys]
            self.content.update(zip(keys, tokens, strict=True))

            def judge(judgement: Judgement) -> None:
                judgement.written(self.rows(judgement, "o_write", place, position, count), tokens)
        else:
            held = [self.content.get(key) for key in keys]

            def judge(judgement: Judgement) -> None:
                judgement.read(self.rows(judgement, "o_read", place, position, count), held)
        self.request("i_request", payload, judge)

    def rows(self, judgement: Judgement, stream: str, place: Place, position: int, count: int) -> list[int]:
        return judgement.rows(stream, place, position, count)

    def each_head(self, position: int, count: int) -> None:
        """As the accelerator appends: rows of every head of every layer."""
        for layer in range(LAYERS):
            for head in range(HEADS):
                self.ask(1, layer, head, position, count, True)


class ContiguousTrace(_TextTrace):
    """Appends, writes and reads anywhere, of rows that were never written too, and requests beyond the capacity."""

    def text(self, until: int) -> None:
        rng, capacity, length = self.random, self.random.randint(1, self.most), 0
        self.set(capacity=capacity)
        while self.operations < until:
            kind = rng.choices(("append", "read", "write", "beyond", "settle"), (4, 8, 4, 2, 1))[0]
            position = rng.randint(0, capacity)
            count = rng.choice((rng.randint(0, capacity - position), min(1, capacity - position)))
            if kind == "append" and length < capacity:
                self.each_head(length, 1)
                length += 1
            elif kind in ("read", "write"):
                self.ask(int(kind == "write"), rng.randrange(LAYERS), rng.randrange(HEADS), position, count, True)
            elif kind == "beyond" and capacity < self.most:
                count = rng.randint(capacity - position + 1, self.most)
                self.ask(rng.getrandbits(1), rng.randrange(LAYERS), rng.randrange(HEADS), position, count, False)
            elif kind == "settle":
                self.settle()

    def rows(self, judgement: Judgement, stream: str, place: Place, position: int, count: int) -> list[int]:
        if count == 0:  # one command of no beats
            judgement.check(judgement.next(stream)["beats"] == 0, "beats of no rows")
            return []
        addresses = super().rows(judgement, stream, place, position, count)
        judgement.check(addresses == [place.address(position + k) for k in range(count)], f"rows at {addresses[0]:#x} ...")
        return addresses


class WindowTrace(_TextTrace):
    """A text many times longer than the cache. What is kept is a list of positions: the first ones, and the latest ones."""

    def text(self, until: int) -> None:
        rng = self.random
        sinks = rng.choice((0, 1, 4, rng.randrange(self.most)))
        recent = rng.choice((1, rng.randint(1, self.most - sinks), self.most - sinks))
        length = 0
        self.set(sinks=sinks, recent=recent, length=0)
        self.set(clear=1)
        self.set(clear=0)
        kept: list[int] = []
        latest: tuple[int, int, int, int] | None = None
        while self.operations < until:
            if rng.random() < 0.5 and length < (1 << 20) - 1:
                count = rng.choice((1, 1, 1, rng.randint(1, recent)))
                if length < sinks:
                    count = min(count, sinks - length)
                self.settle()
                length += count
                kept += range(length - count, length)
                while len(kept) > sinks + recent:
                    del kept[sinks]
                self.set(length=length)
                if latest and rng.random() < 0.3 and latest[2] + latest[3] <= length - count:  # what was there may be gone
                    self.ask(0, *latest, set(range(latest[2], latest[2] + latest[3])) <= set(kept))
                self.each_head(length - count, count)
                continue
            layer, head = rng.randrange(LAYERS), rng.randrange(HEADS)
            first = rng.choice((0, *kept[:1], *kept[sinks:sinks + 1], rng.choice(kept) if kept else 0, rng.randint(0, length)))
            present, there = set(kept), 0
            while there < self.most and first + there in present:
                there += 1
            count = rng.choice((there, rng.randint(0, there), min(there, 1), there + 1))
            if count <= self.most:
                allowed = all(first + k in present for k in range(count))
                latest = layer, head, first, count
                self.ask(int(allowed and rng.random() < 0.2), layer, head, first, count, allowed)
            if rng.random() < 0.1:
                self.settle()

    def rows(self, judgement: Judgement, stream: str, place: Place, position: int, count: int) -> list[int]:
        addresses = judgement.rows(stream, place, position, count)
        first = place.address(0)
        for address in addresses:
            row, rest = divmod((address - first) % (1 << 32), place.record)
            judgement.check(rest == 0 and row < self.most, f"row {row} of {self.most}")
        return addresses
