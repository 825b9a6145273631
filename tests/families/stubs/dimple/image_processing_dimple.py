from __future__ import annotations

from .processing import CellImageProcessor


class DimpleImageProcessor(CellImageProcessor):
    pass
