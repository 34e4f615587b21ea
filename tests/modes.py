"""An image for the accelerator whose attention has modes, and a run of it; ``modes_program`` of conftest.py is its driver."""

from pathlib import Path

from llmrtl.accelerators.config import AcceleratorConfig
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.rtl_gen.image import Image
from llmrtl.sim.native.run import Run, simulate

from .checkpoints import SMALL_BITNET, write_checkpoint

MODES = preset("tiny_modes")


def modes_image(folder: Path, window: tuple[int, int], config: AcceleratorConfig = MODES) -> Image:
    """With as many sinks and positions of a window."""
    write_checkpoint(folder, SMALL_BITNET, seed=7)
    return compile_model(Checkpoint.open(folder), config, fraction_bits=20, window=window, context=200)


def run(program: Path, image: Image, folder: Path, prompt: list[int], count: int, **options) -> Run:
    (folder / "image.bin").write_bytes(image.data.tobytes())
    return simulate(program, image, folder / "image.bin", prompt, count, **options)
