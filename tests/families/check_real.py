"""The adapters' checks against a checkout of the authors' code, with tiny random weights.

    python tests/families/check_real.py --family lavida|llada-v|dimple|dream-vl --repo PATH

It runs in whatever environment it is started in, which needs what `NEEDED` says, and dcam_fast (pip install
--no-build-isolation --no-deps PATH, with DCAM_EXTENSION=0 where there is no compiler).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path

import torch
import transformers

from dcam_fast.models.dream.dimple import DimpleAdapter
from dcam_fast.models.dream.dream_vl import DreamVLAdapter
from dcam_fast.models.llava.lavida import LavidaAdapter
from dcam_fast.models.llava.llada_v import LladavAdapter

# family -> the module whose `check(family, repo)` says what holds and raises what does not
FAMILIES = {"lavida": "real_lavida", "llada-v": "real_lladav", "dimple": "real_dream", "dream-vl": "real_dream"}
ADAPTERS = {adapter.family: adapter for adapter in (LavidaAdapter, LladavAdapter, DimpleAdapter, DreamVLAdapter)}
# family -> the packages that the authors' code imports and dcam_fast does not; deepspeed has a stub
NEEDED = {family: set(getattr(one, "requirements", ())) - {"deepspeed"} for family, one in ADAPTERS.items()}


def check_needed(family: str) -> None:
    """Ends with one line unless the environment has what the family's check needs."""
    missing = sorted(name for name in NEEDED[family] if importlib.util.find_spec(name) is None)
    oldest, beyond, _ = ADAPTERS[family].transformers
    if missing:
        raise SystemExit(
            f"check_real: environment must have {', '.join(missing)} for {family}, got none; "
            f"pip install 'transformers>={oldest},<{beyond}' {' '.join(sorted(NEEDED[family]))}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=list(FAMILIES), required=True)
    parser.add_argument("--repo", type=Path, required=True, help="a checkout of the authors' repository")
    options = parser.parse_args()
    check_needed(options.family)
    sys.path.insert(0, str(Path(__file__).parent))
    print(f"{options.family}: torch {torch.__version__}, transformers {transformers.__version__}")
    importlib.import_module(FAMILIES[options.family]).check(options.family, options.repo)


if __name__ == "__main__":
    main()
