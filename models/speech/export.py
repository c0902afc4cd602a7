"""Package a training run: `python -m models.speech.export --run DIR` writes weights into `models/zoo/speech-en`.

Weights are stored as float16, which halves the file; what is served and scored is what this file holds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from models.bundle import ZOO
from models.speech.train import read_progress


def export(run: Path, folder: Path) -> None:
    """Write `weights.safetensors` of the run's checkpoint into a model folder."""
    checkpoint = run / "checkpoint.safetensors"
    tensors = load_file(checkpoint)
    weights = {n[6:]: t for n, t in tensors.items() if n.startswith("model.")}
    halved = {n: t if n.startswith("front_end.") else t.to(torch.float16) for n, t in weights.items()}
    path = folder / "weights.safetensors"
    save_file({n: t.contiguous() for n, t in halved.items()}, path)
    path.chmod(0o644)  # safetensors writes for the owner alone
    print(f"{path}: {read_progress(checkpoint)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="the folder that models.speech.train wrote")
    parser.add_argument("--model", type=Path, default=ZOO / "speech-en", help="the model folder to fill")
    given = parser.parse_args()
    export(given.run, given.model)


if __name__ == "__main__":
    main()
