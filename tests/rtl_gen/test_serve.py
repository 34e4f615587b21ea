"""``llmrtl serve-sim``: its figures from a result made by hand, and from a run of the shipped model, where the words that went to the
accelerator and the registers that it left tell them again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from llmrtl.accelerators.control.entries import EntryKind
from llmrtl.accelerators.integers import ceil_div
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen import serve
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.cli import main
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.rtl_gen.scheduler import Request
from llmrtl.rtl_gen.serve import Served, ServedStep, load_requests, report, summarize_service
from llmrtl.rtl_gen.tokenizer import load_tokenizer
from llmrtl.sim.native.session import Session

from ..checkpoints import SMALL_BITNET, write_checkpoint

CONFIG = replace(preset("tiny_paged"), name="small_paged", sequences=3, block_size=4, max_context=32)
ROOT = Path(__file__).parents[2]
STORIES, REQUESTS = ROOT / "models" / "stories", ROOT / "docs" / "requests.json"


def request(name, prompt, generated, **changes):
    made = Request(name, prompt, len(generated))
    made.ids += generated
    for field, value in changes.items():
        setattr(made, field, value)
    return made


def test_summary(tmp_path, capsys):
    """Every figure, and those that are printed. A position has 2 layers of 2 heads, each with a header, 8 keys and 8 values of a byte:
    a word of 64 bits each."""
    write_checkpoint(tmp_path, SMALL_BITNET, seed=7)
    image = compile_model(Checkpoint.open(tmp_path), CONFIG, fraction_bits=20)
    requests = [request("long", [1, 2, 3, 4, 5], [6, 7, 8, 9]), request("short", [1, 2, 3, 7], [11], shared=3, preempted=1),
                request("late", [4], [5, 6], swapped=2)]
    steps = [ServedStep(cycles=400, tokens=4, blocks=2, blocks_apart=2, rows=11, rows_apart=11, read_beats=1),
             ServedStep(500, 4, 5, 7, 20, 29, 2), ServedStep(300, 2, 6, 6, 9, 10, 3), ServedStep(100, 0, 0, 0, 0, 0, 4)]
    served = Served(requests, ["long", "long", "short", "long", "late", "long", "late"],
                    {"long": [1] * 4, "short": [1], "late": [1] * 2},
                    {"long": [390, 560, 700, 1001], "short": [810], "late": [990, 1190]}, {"long": 0, "short": 0, "late": 900},
                    steps, 12)
    summary = summarize_service(image, served, {"late": "token 1: differs"}, "llmrtl serve-sim")
    position, block = 2 * 2 * 3 * 8, 4 * 2 * 2 * 3 * 8
    assert summary == {
        "golden_match": False, "preset": "small_paged", "command": "llmrtl serve-sim", "steps": 4, "cycles": 1300,
        "tokens_per_step": 2.5, "tokens_through_the_model": 10, "kv_bytes_per_token": position, "block_bytes": block,
        "kv_bytes_peak": 6 * block, "kv_bytes_peak_without_sharing": 7 * block,
        "kv_bytes_read": 40 * position, "kv_bytes_read_without_groups": 50 * position, "kv_swap": {}, "free_blocks_at_the_end": 12,
        "requests": {
            "long": {"prompt_tokens": 5, "tokens": [6, 7, 8, 9], "shared_positions": 0, "preempted": 0, "swapped": 0,
                     "cycles_to_first_token": 390, "cycles_between_tokens": round((1001 - 390) / 3), "mismatch": None},
            "short": {"prompt_tokens": 4, "tokens": [11], "shared_positions": 3, "preempted": 1, "swapped": 0,
                      "cycles_to_first_token": 810, "cycles_between_tokens": None, "mismatch": None},
            "late": {"prompt_tokens": 1, "tokens": [5, 6], "shared_positions": 0, "preempted": 0, "swapped": 2,
                     "cycles_to_first_token": 90, "cycles_between_tokens": 200, "mismatch": "token 1: differs"}}}
    report(summary)
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in printed.splitlines() if line.startswith("│")]
    assert rows == [["long", "5", "0", "4", "390", "204"], ["short", "4", "3", "1", "810", ""], ["late", "1", "0", "2", "90", "200"]]
    assert ("4 steps, 1,300 cycles, 2.5 tokens per step; KV cache 96 bytes per token, 2,304 at most, 2,688 without "
            "sharing; attention read 3,840 bytes of it, 4,800 without groups\n") in printed
    assert "late: token 1: differs" in printed and "golden_match: true" not in printed
    served.swapped = {"rows_out": 5, "rows_in": 3, "clean_blocks": 2}
    summary = summarize_service(image, served, {}, "")
    assert summary["golden_match"]
    assert summary["kv_swap"] == {"rows_out": 5 * position, "rows_in": 3 * position, "clean_blocks": 2 * block}
    report(summary)
    printed = capsys.readouterr().out
    assert "swapped: 480 bytes out, 288 bytes back; 768 bytes left without being written again\n" in printed
    assert "golden_match: true" in printed


class Retold(Session):
    """A session that tells from its batches and from what the accelerator said of them whose tokens came when, and what was in the
    cache. Of every sequence it has the text, by which it knows the request."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        Retold.latest = self
        self.texts, self.begins, self.cycle, self.tokens = {}, [], 0, 0
        self.cycles, self.apart, self.free = {}, [], []

    def step(self, batch):
        run = super().step(batch)
        words, sampled = list(batch), []
        while words:
            word = words.pop(0)
            kind, sequence, count = EntryKind(word >> 30), word >> 24 & 63, word & (1 << 18) - 1
            if kind is EntryKind.FREE:
                del self.texts[sequence]
            elif kind is EntryKind.FORK:
                self.texts[sequence] = self.texts[word >> 18 & 63][:count]
            elif kind is EntryKind.TOKENS:
                self.tokens += count
                text = self.texts.setdefault(sequence, [])
                text += [self.fed[sequence]] if word >> 22 & 1 else [words.pop(0) for _ in range(count)]
                sampled += [sequence] if word >> 23 & 1 else []
        for sequence, token in zip(sampled, run.tokens, strict=True):
            self.cycles[tuple(self.texts[sequence])] = self.cycle + token.cycle
        self.fed = dict(zip(sampled, (token.token for token in run.tokens), strict=True))
        self.begins.append(self.cycle)
        self.cycle += run.registers["CYCLES"]
        self.apart.append(sum(ceil_div(len(text), self._image.config.block_size) for text in self.texts.values()))
        self.free.append(run.registers["KV_FREE_BLOCKS"])
        return run


@pytest.mark.bench
@pytest.mark.parametrize("options", [(), ("--token-budget", "2"), ("--no-sharing",)], ids=" ".join)
def test_shipped_model(tmp_path, capsys, monkeypatch, options):
    """Texts and figures of the requests of the docs."""
    monkeypatch.setattr(serve, "Session", Retold)
    path, checkpoint = tmp_path / "summary.json", Checkpoint.open(STORIES)
    assert main(["serve-sim", str(REQUESTS), "--checkpoint", str(STORIES), "--preset", "tiny_paged",
                 "--json", str(path), *options]) == 0
    printed, found, told = capsys.readouterr().out, json.loads(path.read_text()), Retold.latest
    assert found["golden_match"] is True and "golden_match: true" in printed
    tokenizer, config = load_tokenizer(checkpoint), preset("tiny_paged")
    for each in load_requests(REQUESTS, tokenizer, checkpoint.model.vocab_size):
        figures = found["requests"][each.name]
        assert len(figures["tokens"]) == each.count and figures["mismatch"] is None
        assert f"\n{each.name}: {tokenizer.decode(each.prompt + figures['tokens'])}\n" in printed
        cycles = [told.cycles.pop((*each.prompt, *figures["tokens"][:k])) for k in range(each.count)]
        assert figures["cycles_to_first_token"] == cycles[0] - told.begins[each.arrival]
        assert figures["cycles_between_tokens"] == round((cycles[-1] - cycles[0]) / (each.count - 1))
    assert told.cycles == {}
    assert found["steps"] == len(told.begins) and found["cycles"] == told.cycle and found["tokens_through_the_model"] == told.tokens
    assert found["tokens_per_step"] == round(told.tokens / len(told.begins), 3)
    assert found["kv_bytes_peak"] == (config.blocks - min(told.free)) * found["block_bytes"]
    assert found["kv_bytes_peak_without_sharing"] == max(told.apart) * found["block_bytes"]
    assert (found["kv_bytes_peak"] < found["kv_bytes_peak_without_sharing"]) == ("--no-sharing" not in options)
    assert (f"{found['tokens_per_step']} tokens per step; KV cache {found['kv_bytes_per_token']:,} bytes per token, "
            f"{found['kv_bytes_peak']:,} at most, ") in printed
