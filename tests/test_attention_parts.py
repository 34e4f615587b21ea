"""Programs that split attention: partial results in memory, merged by later passes and by other accelerators."""

from dataclasses import replace

import numpy as np
import pytest
from llmrtl.accelerators.control.errors import ErrorCause
from llmrtl.accelerators.control.isa import CHECK_SEED, INSTRUCTION_BYTES, Opcode
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.split import part_bytes, program_of, split_attention, with_program
from llmrtl.sim.golden.machine import Machine

from .modes import MODES, modes_image, run
from .tokens import said, steps

PROMPT, NEW = [1, 2, 3, 4, 5, 9, 8, 7, 6, 5, 4], 40
RANGES = {"two": [(0, 16), (16, None)], "reversed": [(16, None), (0, 16)],
          "four": [(32, 48), (0, 16), (48, None), (16, 32)], "empty": [(0, 160), (160, None)], "one": [(0, None)]}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """With sinks and a window, so that ranges cut either."""
    return modes_image(tmp_path_factory.mktemp("model"), window=(18, 30))


def with_attends(image, attends, appends=None, regions=1):
    """``image`` with other operations instead of an ATTEND: ``attends(layer, parts)`` gives the fields of each, ``parts`` being the
    addresses of ``regions`` for parts of the layer's own; ``appends``: more fields of APPEND."""
    code, layer, size = [], 0, part_bytes(image)
    for op in program_of(image):
        if op.opcode is Opcode.ATTEND:
            code += [replace(op, **fields) for fields in attends(layer, [(layer * regions + k) * size for k in range(regions)])]
            layer += 1
        else:
            code.append(replace(op, **appends) if appends and op.opcode is Opcode.APPEND else op)
    return with_program(image, code, layer * regions * size)


def parts_at(image):
    """Addresses of the parts of each layer's first ATTEND, which has some."""
    attends = [op for op in program_of(image) if op.opcode is Opcode.ATTEND]
    each = len(attends) // image.model.layers
    return [op.parts for op in attends[::each]]


class Attended(Machine):
    """Keeps what attention gives, in real numbers, by layer."""

    def __init__(self, image):
        super().__init__(image)
        self.outputs = {}

    def _attend(self, op):
        super()._attend(op)
        if not op.partial:
            x = self._vectors(op.destination, op.count * op.group * op.words).reshape(len(self.tokens), op.count * op.group, -1)
            self.outputs.setdefault(op.tag, []).append(x * 2.0 ** self.exponents[:, :, None])


def test_passes_give_what_one_gives(image):
    """What attention gives, but for bits that are shifted out; behind it one of them may still turn the rounding of an activation.
    Where a part is not merged, it is missed."""
    tokens = (PROMPT * 4)[:40]

    def outputs(changed):
        machine = Attended(changed)
        machine.chunk(tokens)
        return np.concatenate([np.concatenate(part).ravel() for part in machine.outputs.values()])
    whole = outputs(image)

    def deviation(changed):
        return np.sqrt(np.mean((outputs(changed) - whole) ** 2) / np.mean(whole ** 2))
    for name, ranges in RANGES.items():
        found = deviation(split_attention(image, ranges))
        print(f"{name}: {found:.1e}")
        assert found < 1e-5
    assert deviation(with_attends(image, lambda layer, parts: [{"first": 1}])) > 0.1


def test_what_cannot_be_split(image, tmp_path):
    for ranges in ([(0, 16)], [(0, 16), (32, None)], [(16, None)], [(0, 8), (8, None)], []):
        with pytest.raises(ValueError, match=r"ranges must (follow each other from 0|reach) to the end of the text"):
            split_attention(image, ranges)
    plain = replace(image, config=preset("tiny_window"))
    with pytest.raises(ValueError, match="programs of 'tiny_window' cannot split attention: it needs attention_modes"):
        split_attention(plain, RANGES["two"])
    with pytest.raises(ValueError, match="the program splits attention or has fallbacks, which 'tiny_window' cannot"):
        Machine(replace(split_attention(image, RANGES["two"]), config=preset("tiny_window")))


@pytest.mark.bench
@pytest.mark.parametrize("ranges", RANGES.values(), ids=RANGES)
def test_passes_of_one_accelerator(modes_program, image, tmp_path, ranges):
    split = split_attention(image, ranges)
    for memory in ({"latency": 3}, {"latency": 200, "stall": 30, "seed": 5}):
        done = run(modes_program, split, tmp_path, PROMPT, NEW, **memory)
        assert done.error is None
        assert said(done) == steps(split, PROMPT, NEW)


@pytest.mark.bench
@pytest.mark.parametrize("fallback", [False, True], ids=["goes on", "falls back"])
def test_a_pass_with_a_unified_maximum(modes_program, image, tmp_path, fallback):
    """Each pass has the maximum that it asks for; a fallback of the first gives its parts once more, one of the last merges them once
    more."""
    first, last = {"end": 1, "partial": 1}, {"first": 2, "merge": 1}
    split = with_attends(image, lambda layer, parts: [{**fields, "parts": parts[0]} for fields in (
        {**first, "rows": 1, "shift": 0}, *([{**first, "fallback": 1}] if fallback else []),
        {"first": 1, "end": 2, "merge": 1, "partial": 1},
        {**last, "rows": 1, "shift": 0}, *([{**last, "fallback": 1}] if fallback else []))])
    done = run(modes_program, split, tmp_path, PROMPT, NEW)
    assert done.error is None
    assert said(done) == steps(split, PROMPT, NEW)
    assert done.registers["ATTENTION_PASSED"] > 0


class Device:
    """An accelerator with a memory of its own, which stays from run to run."""

    def __init__(self, program, image, folder):
        self.program, self.image, self.folder = program, image, folder
        folder.mkdir()
        self.base, self.file = image.prompt_address, folder / "memory.bin"
        self.memory = np.zeros(image.memory_bytes - self.base, np.uint8)

    def run(self, tokens, position):
        """The token behind ``tokens``, and its logit."""
        self.file.write_bytes(self.memory.tobytes())
        done = run(self.program, self.image, self.folder, tokens, 1, start_position=position, preload=[(self.base, self.file)],
                   dump=[(self.base, self.file)])
        assert done.error is None
        self.memory = np.fromfile(self.file, np.uint8)
        return said(done)[0]

    def region(self, address, size):
        return self.memory[address - self.base:address - self.base + size]


@pytest.mark.bench
def test_two_accelerators_with_half_of_the_rows_each(modes_program, image, tmp_path):
    """One has the first 16 positions, the other those behind. The first one's parts go to the other, which adds its own and gives back
    those of all rows, for each layer. What the layer before has to know is there a round of exchanges earlier, so both run as often as
    there are layers (a host could run a layer at a time)."""
    layers, size = image.model.layers, part_bytes(image)
    nothing = {"first": 1, "end": 1}
    first = with_attends(image, lambda layer, parts: [
        {"end": 1, "partial": 1, "parts": parts[0]}, {**nothing, "merge": 1, "parts": parts[1]}], {"end": 1}, regions=2)
    second = with_attends(image, lambda layer, parts: [
        {"first": 1, "merge": 1, "partial": 1, "parts": parts[0]}, {**nothing, "merge": 1, "parts": parts[0]}], {"first": 1})
    golden = with_attends(image, lambda layer, parts: [
        {"end": 1, "partial": 1, "parts": parts[0]}, {"first": 1, "merge": 1, "partial": 1, "parts": parts[0]},
        {**nothing, "merge": 1, "parts": parts[0]}])
    a, b = Device(modes_program, first, tmp_path / "a"), Device(modes_program, second, tmp_path / "b")
    machine, prompt, chunk = Machine(golden), (PROMPT * 2)[:19], MODES.token_lanes
    expected = [(step.token, step.value) for step in machine.generate(prompt, 3)]
    found, position, tokens = [], 0, list(prompt)
    while len(found) < len(expected):
        here, tokens = tokens[:chunk], tokens[chunk:]
        for round_ in range(layers + 1):
            from_first = a.run(here, position)
            if round_ == layers:
                break
            for own, others in zip(parts_at(first), parts_at(second), strict=True):
                b.region(others, size)[:] = a.region(own, size)
            from_second = b.run(here, position)
            for own, others in zip(parts_at(first), parts_at(second), strict=True):
                a.region(own + size, size)[:] = b.region(others, size)
        assert from_first == from_second
        position += len(here)
        if not tokens:
            found.append(from_first)
            tokens = [from_first[0]]
    assert found == expected
    # Parts in memory are those of the golden model; each has the records of its positions only.
    assert machine.parts is not None
    for ours, theirs in zip(parts_at(second), parts_at(golden), strict=True):
        lanes = [packed for address, packed in sorted(machine.parts.packed.items()) if theirs <= address < theirs + size // chunk]
        assert b.region(ours, size // chunk).tobytes() == b"".join(lanes)
    record = image.kv_record_beats * MODES.bus_bytes
    for device, rows in ((a, range(16)), (b, range(16, position))):
        for op in (op for op in program_of(device.image) if op.opcode is Opcode.APPEND):
            for head in range(image.model.kv_heads):
                kept = device.region(op.address + head * image.kv_head_stride, image.kv_head_stride).reshape(-1, record)
                assert [row for row in range(position) if kept[row].any()] == list(rows)


@pytest.mark.bench
@pytest.mark.parametrize(("opcode", "fields"), [
    (Opcode.NORM, (7, 1 << 16)), (Opcode.LINEAR, (7, 1 << 17)), (Opcode.ATTEND, (9, 2 << 16)), (Opcode.NORM, (7, 1 << 18)),
    (Opcode.ATTEND, (7, 5 << 16))], ids=["merge", "partial", "range", "fallback", "fallback in place"])
def test_instructions_that_are_refused(modes_program, image, tmp_path, opcode, fields):
    """Parts, or a fallback, where there is no attention; a range that ends before it begins; a fallback that would merge what it should
    replace."""
    word, bits = fields
    split = split_attention(image, RANGES["two"])
    number, data = next(k for k, op in enumerate(program_of(split)) if op.opcode is opcode), np.array(split.data)
    words = data[split.program_address + number * INSTRUCTION_BYTES:][:INSTRUCTION_BYTES].view("<u4")
    words[word] ^= bits
    words[15] = np.bitwise_xor.reduce(words[:15]) ^ CHECK_SEED
    done = run(modes_program, replace(split, data=data), tmp_path, PROMPT, 2)
    assert (done.cause, done.registers["ERROR_INFO"]) == (ErrorCause.ILLEGAL_INSTRUCTION, number * INSTRUCTION_BYTES)
    with pytest.raises(ValueError, match=r"only an ATTEND may (merge|be a fallback)|end must be 0 or at least first"):
        Machine(replace(split, data=data))


@pytest.mark.bench
@pytest.mark.parametrize(("fields", "cause"), [({"merge": 1}, ErrorCause.BUS_READ_ERROR), ({"partial": 1}, ErrorCause.BUS_WRITE_ERROR)],
                         ids=["read", "write"])
def test_errors_of_memory_and_what_follows(modes_program, image, tmp_path, fields, cause):
    """A bus error of a part stops the run, and the next one is as if it were the first."""
    split = with_attends(image, lambda layer, parts: [{**fields, "parts": parts[0]}, {"merge": 0}])
    address = parts_at(split)[1]
    done = run(modes_program, split, tmp_path, PROMPT, 4, again=True, error_begin=address, error_end=address + 8)
    assert done.before is not None
    assert (done.before.cause, done.before.registers["ERROR_INFO"]) == (cause, address)
    assert done.error is None
    assert said(done) == steps(split, PROMPT, 4)
