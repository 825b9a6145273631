from __future__ import annotations

from .processing import CellImageProcessor


class DreamVLImageProcessor(CellImageProcessor):
    pass
