"""The embedded model: scenes, architecture, words and pixels, training, accuracy, and its adapter."""

from pathlib import Path
from typing import Final

WEIGHTS: Final = Path(__file__).parent / "weights"
