"""An HTTP service of explanations: `dcam-fast serve`, or `create_app` under any ASGI server."""

from dcam_fast.service.app import create_app
from dcam_fast.service.settings import ServiceSettings

__all__ = ["ServiceSettings", "create_app"]
