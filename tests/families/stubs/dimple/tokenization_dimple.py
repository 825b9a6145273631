from __future__ import annotations

from .processing import ByteTokenizer


class DimpleTokenizer(ByteTokenizer):
    pass
