"""Figures, the page, and the commands that collect them (with few units, and models that are not run)."""

import json
import subprocess
import sys
from argparse import Namespace
from dataclasses import asdict, replace

import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.accelerators.rules import CACHES
from llmrtl.rtl_gen import bench, runs, synthesis
from llmrtl.rtl_gen.cli import main
from llmrtl.rtl_gen.registry import UNITS, emit_unit
from llmrtl.rtl_gen.report import Book, Measurement, render, show
from llmrtl.rtl_gen.yosys import Synthesis
from llmrtl.rtl_gen.yowasp import ToolError, build_root

EDGE = preset("edge")
SERVING_JOBS = runs.serving_jobs
FMAX = Measurement("accelerator/ecp5/fmax", 80.0, "MHz", "measured", "llmrtl synth accelerator")


def figure(value, unit="", kind="measured", note=""):
    return Measurement("a/b", value, unit, kind, "make it", note)


@pytest.mark.parametrize(("value", "unit", "text"), [
    (12345, "", "12,345"), (123.456, "MHz", "123.5"), (0.0012345, "", "0.001234"), (0.954, "%", "95.4%"),
    (True, "", "yes"), (False, "", "no"), ("a -> b", "", "a -> b"), (0, "", "0")])
def test_show(value, unit, text):
    assert show(figure(value, unit)) == text == str(figure(value, unit))


def test_missing_figure_needs_a_reason():
    assert show(figure(None, note="no tool")) == "not measured"
    with pytest.raises(ValueError, match="a/b: note must give the formula, the error of the model or why nothing was measured"):
        figure(None)
    with pytest.raises(ValueError, match="a/b: note must give the formula"):
        figure(1.0, kind="derived")


def test_kind_and_command_are_checked():
    with pytest.raises(ValueError, match="kind must be one of measured, derived, projected, not 'guessed'"):
        figure(1, kind="guessed")
    with pytest.raises(ValueError, match="a/b: command must say how the figure was obtained"):
        Measurement("a/b", 1, "", "measured", "")


def test_book_round_trip(tmp_path):
    book = Book(tmp_path)
    figures = [figure(3), Measurement("a/c", None, "MHz", "measured", "make it", "no tool"),
               Measurement("d/c", 0.5, "%", "derived", "make it", "used / available")]
    book.add("units", figures)
    path = book.save("units")
    assert json.loads(path.read_text())["measurements"][0] == asdict(figures[0])
    again = Book(tmp_path)
    assert again.load("units") and not again.load("runs")
    assert again.topics == book.topics
    assert again.names("units") == ["a", "d"] and again.names("units", 1) == ["b", "c"]
    assert again.get("units", "a/b") == figures[0]
    assert again.get("units", "z/b").value is None
    assert list(again.missing()) == [("units", figures[1])]


def test_damaged_file_is_named(tmp_path):
    (tmp_path / "units.json").write_text('{"measurements": [{"name": "x"}]}')
    with pytest.raises(ValueError, match=r"units\.json: not a file of measurements"):
        Book(tmp_path).load("units")


def test_page_without_figures(tmp_path):
    text = render(Book(tmp_path), config=asdict(EDGE), device="LFE5U-85F", clock_mhz=250.0, macs=3744)
    assert "# Results" in text and "not measured" in text and "None" not in text


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder to write into, two units of which one fails and one that is not measured, no accelerator and no models."""
    monkeypatch.setenv("LLMRTL_BUILD", str(build_root()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(synthesis, "bench_folder", lambda: tmp_path / "bench")
    monkeypatch.setattr(runs, "bench_folder", lambda: tmp_path / "bench")
    monkeypatch.setattr(runs, "jobs", lambda config: [])
    monkeypatch.setattr(runs, "kv260_jobs", list)
    monkeypatch.setattr(runs, "serving_jobs", list)
    monkeypatch.setattr(synthesis, "UNITS", {name: UNITS[name] for name in ("fork", "gearbox", "expert_unit")})
    measure = synthesis.measure

    def failing(name, *arguments, **options):
        if name in ("fork", "accelerator"):
            raise ToolError(f"{name} is too large\nlog")
        return measure(name, *arguments, **options)

    monkeypatch.setattr(synthesis, "measure", failing)
    return tmp_path


def test_all_goes_on_after_an_error(workplace, capsys):
    assert main(["synth", "all"]) == 1
    said = capsys.readouterr().out
    assert "error: fork for ecp5: ToolError: fork is too large" in said and "gearbox" in said
    page = (workplace / "bench/RESULTS.md").read_text()
    assert "- units, fork: ToolError: fork is too large (`llmrtl synth fork --preset edge --target ecp5`)" in page
    assert "- accelerator, accelerator: ToolError: accelerator is too large" in page
    area = Book(workplace / "bench")
    assert area.load("units")
    assert f"| gearbox | {area.get('units', 'gearbox/ecp5/lut')} | {area.get('units', 'gearbox/ecp5/ff')} |" in page
    assert "| fork | not measured |" in page and "expert_unit" not in page
    assert area.get("units", "gearbox/ecp5/fmax").command == "llmrtl synth gearbox --preset edge --target ecp5 --pnr"
    assert area.get("units", "gearbox/latency").command == "pytest tests/test_units.py -k gearbox"


def test_page_of_the_docs_needs_all_figures(workplace, capsys):
    page = workplace / "docs/RESULTS.md"
    page.parent.mkdir()
    page.write_text("earlier figures")
    main(["synth", "all"])
    said = capsys.readouterr().out
    assert page.read_text() == "earlier figures"
    assert "`llmrtl bench` measures what is missing: engine, kv260_area, cache_area, cells, " in said
    for topic in bench.TOPICS:
        Book(workplace / "bench").save(topic)
    begin, end = "<!-- docs/RESULTS.md, Units on Lattice ECP5: gearbox -->", "<!-- end of figures -->"
    (page.parent / "streams.md").write_text(f"{begin}\n{end}\n")
    main(["synth", "all"])
    assert "| gearbox |" in page.read_text() and "missing" not in capsys.readouterr().out
    row = next(line for line in page.read_text().splitlines() if line.startswith("| gearbox |"))
    assert row.partition(" | `")[0] in (page.parent / "streams.md").read_text()


def test_page_is_the_same_again(workplace):
    pages = []
    for _ in range(2):
        main(["synth", "all"])
        pages.append((workplace / "bench/RESULTS.md").read_text())
    assert pages[0] == pages[1]


def test_one_unit(workplace, capsys):
    assert main(["synth", "gearbox", "--pnr"]) == 0
    said = capsys.readouterr().out
    assert "TRELLIS_FF" in said and "critical path: " in said and "83,640" in said
    stored = json.loads((workplace / "bench/synth-gearbox-edge-ecp5.json").read_text())
    assert any(entry["name"] == "gearbox/ecp5/fmax" for entry in stored["measurements"])
    assert not (workplace / "docs").exists()


@pytest.fixture
def synthesized(monkeypatch):
    """Names, presets and targets that were synthesized, without doing so; the preset ``tiny_swap`` cannot be."""
    done = []

    def fake(emitted, target):
        name, config = emitted
        done.append((name, config.name, target))
        if config.name == "tiny_swap":
            raise ToolError("too large\nlog")
        return Synthesis(name, target, 1234, 200, 3, 0, 4, 5, {"LUT4": 1000}, {}, "key")

    monkeypatch.setattr(synthesis, "synthesize", fake)
    monkeypatch.setattr(synthesis, "_emitted", lambda name, config, target: (name, config))
    return done


def test_further_configuration_of_a_unit(synthesized, monkeypatch, tmp_path):
    monkeypatch.setattr(synthesis, "UNITS", {"fork": UNITS["fork"], "gearbox": replace(UNITS["gearbox"], also_measured=("tiny",))})
    assert synthesis.measured_units() == ["fork", "gearbox", "gearbox at tiny"]
    assert [synthesis.config_for(row, EDGE).name for row in synthesis.measured_units()] == ["edge", "edge", "tiny"]
    tiny = synthesis.config_for("gearbox at tiny", EDGE)
    book = Book(tmp_path)
    book.add("units", synthesis.promise_figures("gearbox at tiny", emit_unit("gearbox", tiny)))
    book.add("units", synthesis.measure("gearbox at tiny", tiny, "xcup", place=False)[0])
    assert synthesized == [("gearbox at tiny", "tiny", "xcup")]
    assert book.get("units", "gearbox at tiny/xcup/lut").command == "llmrtl synth gearbox --preset tiny --target xcup"
    assert book.get("units", "gearbox at tiny/latency").command == "pytest tests/test_units.py -k gearbox"
    assert "| gearbox at tiny | 1,234 | 200 | 3 | 0 | 4 |" in render(book, config=asdict(EDGE), device="", clock_mhz=1.0, macs=1)
    bench.forget_stale(book, EDGE)
    assert book.get("units", "gearbox at tiny/xcup/lut").value == 1234 and book.get("units", "gearbox/ecp5/lut").value is None


def test_accelerators_with_each_cache(synthesized, tmp_path):
    book = Book(tmp_path)
    assert synthesis.measure_caches(book) == ["accelerator tiny_swap for ecp5: ToolError: too large\nlog"]
    assert synthesized == [("accelerator", name, "ecp5") for name in synthesis.CACHE_PRESETS]
    assert {preset(name).cache for name in synthesis.CACHE_PRESETS} == set(CACHES)
    again = Book(tmp_path)
    assert again.load(synthesis.CACHES)
    assert again.get(synthesis.CACHES, "tiny_window/ecp5/lut").command == "llmrtl synth accelerator --preset tiny_window --target ecp5"
    page = render(again, config=asdict(EDGE), device="", clock_mhz=1.0, macs=1)
    assert "| tiny_evict | 1,234 | 200 | 3 | 4 | 32 | 2 | 256 |" in page
    assert f"| tiny_swap |{' not measured |' * 4} 64 | 4 | 128 |" in page
    assert "- cache_area, tiny_swap: ToolError: too large (`llmrtl synth accelerator --preset tiny_swap --target ecp5`)" in page


def test_every_part_is_measured():
    assert tuple(bench.PARTS) == bench.BENCH_PARTS


def test_bad_options(workplace, capsys):
    assert main(["synth", "gearbux"]) == 2
    assert "did you mean 'gearbox'?" in capsys.readouterr().err
    assert main(["synth", "gearbox", "--target", "xcup", "--pnr"]) == 2
    assert "--pnr is for --target ecp5, not xcup" in capsys.readouterr().err


def job(tmp_path, **changes):
    return runs.Job(**{"topic": "runs", "name": "model", "command": "llmrtl run", "output": tmp_path / "run.json",
                       "figures": runs._RUN_FIGURES, "inputs": (tmp_path / "checkpoint",)} | changes)


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A job whose command writes a summary, and how often it did."""
    monkeypatch.setenv("LLMRTL_BUILD", str(tmp_path / "build"))
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/config.json").write_text("{}")
    executed = []
    summary = {"golden_match": True, "mismatch": None, "error": None, "cycles_per_decoded_token": 40000.0,
               "bytes_read_per_token": 200000, "parameters": 10, "simulated_cycles_per_second": 9}

    def execute(job):
        executed.append(job.command)
        job.output.write_text(json.dumps(summary))

    monkeypatch.setattr(runs, "_execute", execute)
    monkeypatch.setattr(runs, "jobs", lambda config: [job(tmp_path)])
    monkeypatch.setattr(runs, "kv260_jobs", list)
    monkeypatch.setattr(runs, "serving_jobs", list)
    monkeypatch.setattr(runs, "_sources", lambda topic, config: topic)
    return Namespace(executed=executed, summary=summary, folder=tmp_path)


def test_model_figures(model):
    book = Book(model.folder)
    book.add("accelerator", [FMAX])
    assert runs.run_models(book, EDGE, print) == []
    assert book.get("runs", "model/cycles_per_decoded_token").value == 40000.0
    speed = book.get("runs", "model/tokens_per_second")
    assert (speed.value, speed.kind) == (2000.0, "derived")
    assert book.get("runs", "model/read_bandwidth").value == 400.0
    assert book.get("runs", "model/port_bandwidth").value == 640.0
    assert book.get("runs", "model/cycles_prefill").note == "not in the summary"
    page = render(book, config=asdict(EDGE), device="LFE5U-85F", clock_mhz=250.0, macs=3744)
    assert "| tokens per second, 1/s | 2,000.0 | derived |" in page
    assert "- tokens per second: Fmax on LFE5U-85F / cycles per decoded token" in page


def test_models_are_remembered_until_an_input_changes(model):
    for _ in range(2):
        assert runs.run_models(Book(model.folder), EDGE, print) == []
    assert len(model.executed) == 1
    (model.folder / "checkpoint/config.json").write_text("{ }")
    book = Book(model.folder)
    runs.run_models(book, EDGE, print, execute=False)
    assert book.get("runs", "model/parameters").note == "`llmrtl bench` has not been run"
    runs.run_models(book, EDGE, print)
    assert len(model.executed) == 2


def test_difference_from_the_golden_model_is_an_error(model):
    model.summary |= {"golden_match": False, "mismatch": "step 3"}
    assert runs.run_models(Book(model.folder), EDGE, print) == ["llmrtl run: differs from the golden model: step 3"]


def test_serving_figures(model, monkeypatch):
    """The docs' requests on the preset that serves: rows of the page, and whose tokens differ."""
    first, *others = all_jobs = SERVING_JOBS()
    assert first.command == ("llmrtl serve-sim docs/requests.json --checkpoint models/stories --preset tiny_paged --json "
                             f"{first.output}")
    assert [option for each in others for option in ("--token-budget 2", "--no-groups", "--no-sharing") if option in each.command] == [
        "--token-budget 2", "--no-groups", "--no-sharing"]
    assert len({each.output for each in all_jobs}) == len({each.name for each in all_jobs}) == 4
    names = [each["name"] for each in json.loads(runs.REQUESTS.read_text())]
    requests = {name: {"cycles_to_first_token": 1000 + k, "cycles_between_tokens": 2000 + k, "mismatch": None}
                for k, name in enumerate(names)}
    model.summary.clear()
    model.summary |= {"golden_match": True, "kv_bytes_peak": 3000, "kv_bytes_peak_without_sharing": 4000, "kv_bytes_read": 5000,
                      "kv_bytes_read_without_groups": 6000, "steps": 31, "tokens_through_the_model": 113, "tokens_per_step": 3.645,
                      "cycles": 7000, "requests": requests}
    monkeypatch.setattr(runs, "jobs", lambda config: [])
    monkeypatch.setattr(runs, "serving_jobs", lambda: [replace(first, output=model.folder / "serving.json")])
    book = Book(model.folder)
    assert runs.run_models(book, EDGE, print) == [] and model.executed == [first.command]
    page = render(book, config=asdict(EDGE), device="LFE5U-85F", clock_mhz=250.0, macs=3744)
    section = page.partition("## Several requests at a time\n")[2].partition("\n## ")[0].splitlines()
    begin = section.index("| figure | all token lanes |")
    assert section[begin + 1:begin + 12] == [
        "|---|--:|", "| golden match | yes |", "| kv bytes peak, bytes | 3,000 |", "| kv bytes peak without sharing, bytes | 4,000 |",
        "| kv bytes read, bytes | 5,000 |", "| kv bytes read without groups, bytes | 6,000 |", "| steps | 31 |",
        "| tokens through the model | 113 |", "| tokens per step | 3.645 |", "| cycles | 7,000 |",
        f"| {names[0]}: cycles to first token | 1,000 |"]
    assert f"| {names[-1]}: cycles between tokens | {1999 + len(names):,} |" in section
    assert f"- all token lanes: `{first.command}`" in section
    requests[names[1]]["mismatch"] = "token 3: nothing"
    model.summary["golden_match"] = False
    monkeypatch.setattr(runs, "_sources", lambda topic, config: "others")
    assert runs.run_models(Book(model.folder), EDGE, print) == [
        f"{first.command}: differs from the golden model: token 3: nothing"]


def test_sources_of_serving(tmp_path, monkeypatch):
    """Other requests are another job."""
    hashes = set()
    for text in ("[]", "[ ]"):
        (tmp_path / "requests.json").write_text(text)
        monkeypatch.setattr(runs, "REQUESTS", tmp_path / "requests.json")
        monkeypatch.setattr(runs, "emitted_accelerator", lambda config, observe: Namespace(sidecar={"sha256": config.name}))
        hashes.add(runs._sources("serving", runs.SERVING))
    assert len(hashes) == 2 and all(each.endswith("tiny_paged") for each in hashes)


def test_sources_are_all_of_the_golden_model():
    loaded = subprocess.run([sys.executable, "-c", "import sys, llmrtl.sim.golden.machine\nprint(*sys.modules)"], check=True,
                            capture_output=True, text=True).stdout.split()
    package = "llmrtl.sim.golden"
    names = {f"{name.removeprefix(package + '.')}.py" for name in loaded if name.startswith(package + ".")}
    assert {path.name for path in runs._golden_model()} == {"__init__.py", *names}


def test_unavailable_model_has_a_reason(model, monkeypatch):
    monkeypatch.setattr(runs, "jobs", lambda config: [job(model.folder, unavailable="needs the extra [golden]")])
    book = Book(model.folder)
    assert runs.run_models(book, EDGE, print) == []
    assert book.get("runs", "model/parameters").note == "needs the extra [golden]"
    assert not model.executed


def test_failing_command_is_an_error(tmp_path):
    broken = job(tmp_path, command="llmrtl compare nowhere nowhere.npz")
    with pytest.raises(ToolError, match=r"exit status 2: .*nowhere"):
        runs._execute(broken)


def test_what_a_failing_run_leaves_is_no_result(tmp_path, monkeypatch):
    """`llmrtl run` writes a summary that says what went wrong."""
    def fail(command):
        (tmp_path / "run.json").write_text('{"golden_match": false, "error": "the simulator ended"}')
        return 2, "the simulator ended"
    monkeypatch.setattr(runs, "_command", fail)
    with pytest.raises(ToolError, match="exit status 2: the simulator ended"):
        runs._execute(job(tmp_path))


def test_jobs_name_the_commands(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "REFERENCES", tmp_path)
    found = {(entry.topic, entry.name): entry for entry in runs.jobs(EDGE)}
    assert found["runs", "stories"].command.startswith("llmrtl run --checkpoint ")
    assert not found["runs", "stories"].unavailable
    assert "reference checkpoints" in found["accuracy", "llama-bit-h96"].unavailable


def test_several_latencies_are_one_cell():
    assert show(Measurement("step_scale/latency", {"plain": 15, "norm": 109}, "cycles", "measured", "pytest")) == "plain 15, norm 109"
