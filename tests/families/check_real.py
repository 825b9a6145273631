"""The adapters' checks against a checkout of the authors' code, with tiny random weights.

    python tests/families/check_real.py --family lavida|llada-v|dimple|dream-vl --repo PATH

It runs in whatever environment it is started in, which needs torch, Pillow, einops and a transformers of the range
that the family works with, and dcam_fast (pip install --no-build-isolation --no-deps PATH, with DCAM_EXTENSION=0 where
there is no compiler).
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import torch
import transformers

# family -> the module whose ``check(family, repo)`` says what holds and raises what does not
FAMILIES = {"lavida": "real_lavida", "llada-v": "real_lladav", "dimple": "real_dream", "dream-vl": "real_dream"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=list(FAMILIES), required=True)
    parser.add_argument("--repo", type=Path, required=True, help="a checkout of the authors' repository")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    print(f"{options.family}: torch {torch.__version__}, transformers {transformers.__version__}")
    importlib.import_module(FAMILIES[options.family]).check(options.family, options.repo)


if __name__ == "__main__":
    main()
