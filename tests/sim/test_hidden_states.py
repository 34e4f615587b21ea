"""Final hidden states of the simulated accelerator: their digests against the golden model's."""

import subprocess
import zlib

import numpy as np
import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.rtl_gen.generate import emitted_accelerator, generate, summarize
from llmrtl.sim.golden import machine
from llmrtl.sim.golden.machine import Machine, hidden_digest
from llmrtl.sim.native.build import SOURCES, build_driver
from llmrtl.sim.native.run import Sampling, simulate

from ..checkpoints import SMALL_BITNET, SMALL_LLAMA, write_checkpoint

CONFIG = preset("tiny")
MODELS = {"bitnet": (SMALL_BITNET, "autobitlinear"), "llama": (SMALL_LLAMA, "bitlinear")}
LONG = [(7 * i + 3) % 48 for i in range(2 * CONFIG.token_lanes + 1)]
"""A prompt of more than two chunks."""


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    shape, linear_class = MODELS[request.param]
    folder = tmp_path_factory.mktemp("model")
    write_checkpoint(folder / "checkpoint", shape, seed=7, linear_class=linear_class)
    image = compile_model(Checkpoint.open(folder / "checkpoint"), CONFIG, fraction_bits=20)
    image.save(folder / "image")
    return image, folder / "image.bin"


@pytest.fixture(scope="module")
def observed():
    return emitted_accelerator(CONFIG, observe=True)


def expected(image, prompt, count, sampling=Sampling()):
    golden = Machine(image, seed=sampling.seed, greedy=sampling.greedy, top_k=sampling.top_k,
                     inverse_temperature=float(sampling.inverse_temperature))
    return [step.hidden for step in golden.generate(prompt, count)]


def test_digest():
    """As specified, on bytes written out by hand, whatever type the elements have."""
    for kind in (np.int8, np.int16, np.int64):
        assert hidden_digest(np.array([1, -2, 127], kind)) == zlib.crc32(bytes.fromhex("01000000 feffffff 7f000000"))


def test_words(tmp_path):
    """``HiddenStates`` alone: other operations between the words, padding in the last one, two states and a third cut
    off before all is cleared."""
    states = [[-3, -2, -1, 0, 1, 2], [9, -32768, 32767, 0, 0, -1]]
    words = [word for state in states for word in (state[:4], [*state[4:], 77, 77])] + [[1, 2, 3, 4]]
    calls = "".join(f"{{ int word[] = {{{', '.join(map(str, word))}}}, other[4] = {{}}; states.add(7, word); states.add(6, other); }}\n"
                    for word in words)
    (tmp_path / "words.cpp").write_text(f"""#include "recorders.h"
int main() {{
    HiddenStates states(7, 4, 6);
    for (int round = 0; round < 2; round++) {{
        states.clear();
        {calls}
        while (!states.empty()) std::printf("%u ", states.take());
    }}
}}""")
    subprocess.run(["g++", "-std=c++20", f"-I{SOURCES}", str(tmp_path / "words.cpp"), "-o", str(tmp_path / "words")], check=True)
    printed = subprocess.run([tmp_path / "words"], check=True, capture_output=True, text=True).stdout
    assert printed.split() == 2 * [str(hidden_digest(np.array(state))) for state in states]


def test_digest_is_of_the_last_norm(model):
    image, _ = model
    traced = []
    golden = Machine(image, trace=lambda tag, position, values: traced.append((tag, position, values.copy())))
    step = next(golden.generate(LONG, 1))
    tag = image.operations.index("final norm")
    [(position, values)] = [(position, values) for each, position, values in traced if each == tag]
    assert position == len(LONG) - 1 and np.unique(values).size > 10
    assert step.hidden == hidden_digest(values[:image.model.hidden_size])


@pytest.mark.parametrize("prompt", [[5], LONG[:CONFIG.token_lanes], LONG], ids=lambda prompt: f"{len(prompt)} tokens")
@pytest.mark.parametrize("memory", [{}, {"latency": 60, "stall": 40, "token_stall": 30_000}, {"reset_at": 7000}],
                         ids=["ideal", "hesitating", "reset"])
def test_every_token_has_its_hidden_state(model, observed, prompt, memory):
    """Tokens that wait in front of a slow sink keep theirs."""
    image, file = model
    run = simulate(build_driver(observed), image, file, prompt, 5, hidden=True, **memory)
    assert run.error is None
    assert [token.hidden for token in run.tokens] == expected(image, prompt, 5)
    assert len({token.hidden for token in run.tokens}) == 5


def test_after_an_error(model, observed):
    """What a failed run has left of a hidden state does not enter the next one's."""
    image, file = model
    head = next(section for section in image.sections if section.name == "lm_head")
    run = simulate(build_driver(observed), image, file, LONG, 3, hidden=True, again=True, cycle_limit=400_000,
                   error_begin=head.address, error_end=head.address + head.bytes)
    assert run.before.error is not None and run.error is None
    assert [token.hidden for token in run.tokens] == expected(image, LONG, 3)


def test_match(model, observed):
    image, file = model
    sampling = Sampling(greedy=False, top_k=5, temperature=1.5, seed=99)
    outcome = generate(image, file, observed, LONG, 4, sampling=sampling, check_hidden=True)
    assert outcome.golden_match and len(outcome.steps) == 4
    assert summarize(outcome, image, observed, LONG)["hidden_state_compared"] is True


def test_another_expectation_is_a_mismatch(model, observed, monkeypatch):
    """Tokens and logits agree, one element of one hidden state does not."""
    image, file = model
    calls = []

    def damaged(activations):
        calls.append(activations)
        activations = activations.copy()
        activations[3] ^= len(calls) == 3
        return hidden_digest(activations)

    right = expected(image, LONG, 4)
    monkeypatch.setattr(machine, "hidden_digest", damaged)
    outcome = generate(image, file, observed, LONG, 4, check_hidden=True)
    wrong = outcome.steps[2].hidden
    assert [step.hidden for step in outcome.steps] == [*right[:2], wrong, right[3]] and wrong != right[2]
    assert not outcome.golden_match
    assert outcome.mismatch == (f"step 2 (position {len(LONG) + 1}): the accelerator's final hidden state has digest "
                                f"{right[2]:#010x}, the golden model's {wrong:#010x}")
    calls.clear()
    assert generate(image, file, observed, LONG, 4).golden_match  # it was not asked to look


def test_damaged_gain_is_a_mismatch(model, observed, tmp_path):
    """One gain of the final norm has the other sign, unknown to the golden model."""
    image, _ = model
    data = np.array(image.data)
    data[next(section for section in image.sections if section.name == "final_norm").address + 1] ^= 0x80
    (tmp_path / "damaged.bin").write_bytes(data.tobytes())
    outcome = generate(image, tmp_path / "damaged.bin", observed, LONG, 1, check_hidden=True)
    assert outcome.mismatch.startswith(f"step 0 (position {len(LONG) - 1}): the accelerator's final hidden state has digest")


def test_unobserved_accelerator_is_refused(model, capfd):
    image, file = model
    with pytest.raises(RuntimeError, match="status 2"):
        generate(image, file, emitted_accelerator(CONFIG), LONG, 1, check_hidden=True)
    assert "the accelerator was built without observe" in capfd.readouterr().err
