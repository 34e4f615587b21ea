"""Evict + merge cache: what its units refuse, other configurations, a long trace on the emitted Verilog."""

import dataclasses
import itertools
import random

import pytest
from llmrtl.accelerators.attention.weights import AttentionWeights
from llmrtl.accelerators.cache import evict_cache, evict_decisions, merge_numbers, merge_words, record_merge
from llmrtl.accelerators.cache.evict_cache import EvictCache
from llmrtl.accelerators.cache.evict_scores import EvictScores, evict_slots
from llmrtl.accelerators.cache.record_merge import RecordMerge
from llmrtl.accelerators.cache.similar import SimilarKey
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.emit import emit
from llmrtl.rtl_gen.lint import lint
from llmrtl.sim.bench.evict import RecordMergeBench
from llmrtl.sim.bench.evict_cache import HELD, EvictCacheBench
from llmrtl.sim.bench.runner import run_bench

from ..sim.mutants import mutant, put_in

EDGE = preset("edge")
KV16 = dataclasses.replace(EDGE, kv_bits=16)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: EvictScores(1, 8, 17), r"heads must be in 2\.\.256, not 1"),
    (lambda: EvictScores(2, 12, 17), "slots must be a power of two, not 12"),
    (lambda: EvictScores(2, 8, 15), r"weight_bits must be in 16\.\.24, not 15"),
    (lambda: EvictScores(2, 8, 17, decay=0), r"decay must be in 1\.\.8, not 0"),
    (lambda: EvictScores(2, 8, 17, emphasis=9), r"emphasis must be in 0\.\.8, not 9"),
    (lambda: EvictCache(EDGE, slots=1024), r"slots must be in 4\.\.511, not 1024"),
    (lambda: EvictCache(EDGE, heads=257), r"heads must be in 2\.\.256, not 257"),
    (lambda: SimilarKey(EDGE, 512), r"slots must be in 2\.\.511, not 512"),
    (lambda: SimilarKey(KV16), "kv_bits must be 8, not 16"),
    (lambda: RecordMerge(KV16), "kv_bits must be 8, not 16"),
    (lambda: AttentionWeights(EDGE, 1024), r"rows must be in 4\.\.512, not 1024"),
])
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("context", "slots"), [(2, 4), (128, 32), (511, 64), (2048, 512)])
def test_slots_are_a_quarter_of_the_context(context, slots):
    assert evict_slots(dataclasses.replace(EDGE, max_context=context)) == slots


@pytest.mark.parametrize(("name", "rows"), [("tiny", 2), ("edge", 6), ("kv260", 16)])
def test_rows_from_which_on_a_merge_takes_no_longer_than_its_search(name, rows):
    """Fewest ones, with the longest records."""
    config = preset(name)
    words = config.max_head_dim // config.vector_lanes
    merge = RecordMerge(config).between(words)
    assert rows == next(budget for budget in itertools.count(2) if (budget + 2) * config.max_record_beats + 1 >= merge)


OTHERS = {
    "wide": dataclasses.replace(EDGE, bus_bits=256, vector_lanes=8, tables=64, max_head_dim=128),  # header in the tail of short keys
    "one_lane": dataclasses.replace(preset("tiny"), query_lanes=1, max_head_dim=16),
    "runs": dataclasses.replace(preset("tiny"), cache="window"),
    "int4": preset("tiny_int4"),
    "wide_int4": dataclasses.replace(EDGE, bus_bits=256, vector_lanes=8, tables=64, max_head_dim=128, kv_storage="int4"),
}


@pytest.mark.bench
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(("component", "bench"), [
    (EvictScores, "evict_scores:EvictScoresBench"), (AttentionWeights, "evict_scores:AttentionWeightsBench"),
    (SimilarKey, "evict:SimilarKeyBench"), (RecordMerge, "evict:RecordMergeBench"), (EvictCache, "evict_cache:EvictCacheBench")])
def test_other_configurations(component, bench, name, tmp_path):
    emitted = emit(component.for_config(OTHERS[name]), "unit", OTHERS[name])
    assert lint(emitted) == []
    report = run_bench(emitted, f"llmrtl.sim.bench.{bench}", "verilator", seed=5, folder=tmp_path)
    assert report.ok, str(report)


class HeldTrace(EvictCacheBench):
    """The last word of each packet comes late."""

    def stimulus(self, rng, case):
        items = super().stimulus(rng, case)
        self.held = HELD
        return items


@pytest.mark.bench
def test_an_append_that_is_answered_before_its_rows_have_come_is_found(tmp_path, monkeypatch):
    """The token of one that is dropped would be written when the last row's key has been seen."""
    config = preset("tiny")
    put_in(evict_cache, mutant(evict_decisions, " & (self.come != 0)", ""), monkeypatch)
    report = run_bench(emit(evict_cache.EvictCache(config), "evict_cache", config), f"{__name__}:HeldTrace", "verilator", seed=5,
                       folder=tmp_path, cases=["back_to_back"])
    assert not report.ok and "while words that it reads are due" in str(report)


class ShortRecords(RecordMergeBench):
    """Of a beat of K that has the header, and one of V: the candidate's header is there when its record ends. The first beat waits for
    the packer to know that it is K's last, a cycle more."""

    def __init__(self, config):
        super().__init__(config)
        self.resize(config.kv_lanes // 2)
        assert (self.beats, self.record_beats) == (1, 2)

    def figures(self, attributes):
        return {"latency": super().figures(attributes)["latency"] + 1}


@pytest.mark.bench
def test_records_of_two_beats_are_merged(tmp_path):
    config = OTHERS["wide"]
    report = run_bench(emit(RecordMerge(config), "record_merge", config), f"{__name__}:ShortRecords", "verilator", seed=5,
                       folder=tmp_path)
    assert report.ok, str(report)


MERGE_FAULTS = {  # that a trace of the cache does not see
    "a row is filled while it is merged": (record_merge, "words.idle | (words.banks[0] != into)", "1"),
    "a row is filled before it is merged": (record_merge, "((into - first)[:len(into)] != CANDIDATES - 1)", "1"),
    "a peak is that of all vectors before": (merge_words, "(register(begins, levels) | (largest > peak))", "(largest > peak)"),
    "a merge begins before the scales were taken": (record_merge, " & numbers.scaled", ""),
    "a merge begins before its record kept is there": (record_merge, "prepares & ~comes &", "prepares &"),
    "a merge begins while another one runs": (record_merge, "numbers.prepared & words.idle &", "numbers.prepared &"),
    "a total is divided before the peaks": (merge_numbers, "waiting[2] & self.ready[0] & self.ready[1]", "waiting[2]"),
}


@pytest.mark.bench
@pytest.mark.parametrize("name", MERGE_FAULTS)
def test_a_fault_of_the_merge_is_found(name, tmp_path, monkeypatch):
    module, old, new = MERGE_FAULTS[name]
    changed, config = mutant(module, old, new), preset("tiny")
    if module is not record_merge:
        put_in(record_merge, changed, monkeypatch)
    made = changed.RecordMerge if module is record_merge else record_merge.RecordMerge
    report = run_bench(emit(made(config), "record_merge", config), "llmrtl.sim.bench.evict:RecordMergeBench", "verilator", seed=5,
                       folder=tmp_path)
    assert not report.ok


class LongTrace(EvictCacheBench):
    """A thousand tokens, most of them beyond the budget."""

    def stimulus(self, rng, case):
        self.held = 0
        self.failing = {rng.randrange(3000) for _ in range(5)}
        heads = rng.sample(range(self.config.max_heads), 4)
        return self._trace(rng, 1000, {heads[0]: 4, heads[1]: 5, heads[2]: 7, heads[3]: 12})


@pytest.mark.bench
def test_long_trace(tmp_path):
    config, seed = preset("tiny"), random.randrange(1 << 30)
    print(f"seed {seed}")
    report = run_bench(emit(EvictCache.for_config(config), "evict_cache", config), f"{__name__}:LongTrace", "verilator", seed=seed,
                       folder=tmp_path, cases=["back_to_back"])
    assert report.ok, str(report)
