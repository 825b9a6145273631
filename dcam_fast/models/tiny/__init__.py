"""The embedded model: layers, model, tokenizer and image processor, training, accuracy, and its adapter."""

from pathlib import Path
from typing import Final

WEIGHTS: Final = Path(__file__).parent / "weights"
