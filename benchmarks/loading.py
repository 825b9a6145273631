"""Peak memory of loading a checkpoint, as a multiple of its size.

    python benchmarks/loading.py [--megabytes 400]

A separate process loads a synthetic model of the given size from several safetensors files.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from dcam_fast.models.checkpoint import build_model
from dcam_fast.models.weights import check_files

SIDE = 1024


class SyntheticConfig(PretrainedConfig):
    model_type = "synthetic"

    def __init__(self, layers: int = 1, **options: Any) -> None:
        self.layers = layers
        super().__init__(**options)


class SyntheticModel(PreTrainedModel):
    """Square linear layers, 4 MiB each in float32."""

    config_class = SyntheticConfig

    def __init__(self, config: SyntheticConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(nn.Linear(SIDE, SIDE, bias=False) for _ in range(config.layers))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keeps torch's initial weights."""


def peak() -> int:
    """Peak memory of this process in bytes (getrusage would include the process that started it)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def measure(folder: Path) -> None:
    """Loads the checkpoint in `folder` and prints its size and the peak memory."""
    size = sum(file.stat().st_size for file in check_files(folder))
    before = peak()
    build_model(SyntheticModel, SyntheticConfig, folder, "cpu", torch.float32)
    print(f"checkpoint {size / 1e6:.0f} MB, peak {(peak() - before) / size:.2f} times that")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--folder", type=Path, help="measure an existing checkpoint")
    options = parser.parse_args()
    if options.folder:
        measure(options.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        model = SyntheticModel(SyntheticConfig(layers=max(1, options.megabytes // 4)))
        model.save_pretrained(folder, max_shard_size="100MB")
        subprocess.run([sys.executable, __file__, "--folder", folder], check=True)


if __name__ == "__main__":
    main()
