"""Model families, one adapter each. Nothing outside this package knows a model's name."""

from __future__ import annotations

from dcam_fast.models.adapter import Adapter, AdapterError

__all__ = ["Adapter", "AdapterError", "load"]


def load(name: str, *, device: str = "cpu", attention: str | None = None) -> Adapter:  # type: ignore[type-arg]
    """The adapter of a model by name. ``"tiny"`` is the embedded one.

    Args:
        name: the model.
        device: a torch device.
        attention: attention topology of the generation, ``"prefix"`` or ``"joint"`` (None: the model's own).

    Raises:
        AdapterError: for a name that no adapter knows.
    """
    if name != "tiny":
        raise AdapterError(f"load: model must be 'tiny', the embedded one, got {name!r}")
    from dcam_fast.models.tiny.adapter import TinyAdapter

    return TinyAdapter(device=device, attention=attention or "prefix")  # type: ignore[arg-type]
