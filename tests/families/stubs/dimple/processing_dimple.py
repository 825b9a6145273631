from __future__ import annotations

from .processing import CellProcessor


class DimpleProcessor(CellProcessor):
    pass
