"""`dcam-fast serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from dcam_fast.cli.console import error_console, load_explainer, one_line, out_console
from dcam_fast.cli.options import Device, Dtype, Model, TrustRemoteCode

ENCODINGS = 8  # images with prompts that stay encoded


@one_line
def serve(
    model: Model = "tiny",
    device: Device = "cpu",
    trust_remote_code: TrustRemoteCode = False,
    dtype: Dtype = None,
    host: Annotated[str, typer.Option(help="Address to listen on. The default is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="DCAM_API_KEY", show_envvar=True, help="Key that requests must carry. Default: none."),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait or run; more are refused.")] = 32,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="A further name of this service, such as a proxy's; repeatable."),
    ] = None,
    allow_image_host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="A host that images may be loaded from by URL; repeatable. Default: none."),
    ] = None,
    drain: Annotated[float, typer.Option(min=0.1, help="Seconds that requests may go on after SIGTERM.")] = 30.0,
) -> None:
    """Answer and explain over HTTP, with a live page."""
    try:
        with out_console.status("loading"):
            from dcam_fast.service import ServiceSettings, create_app, logs, server
    except ImportError as error:
        raise RuntimeError(f"serve: needs the extra serve (pip install 'dcam_fast[serve]'): {error}") from error
    from dcam_fast.explainer import Explainer

    with server.listen(host, port) as listener:
        is_private = server.is_loopback(listener)
        names = {
            *(name.lower() for name in allow_host or ()),
            *({*server.LOOPBACK, host.lower()} if is_private else ()),
        }
        settings = ServiceSettings(
            api_key=api_key,
            hosts=frozenset(names),
            image_hosts=frozenset(name.lower() for name in allow_image_host or ()),
            queue=queue,
            drain_seconds=drain,
        )
        if not is_private and api_key is None:
            error_console.print("note: anyone who reaches this address can use the service; --api-key protects it")
        loaded = load_explainer(model, device=device, trust_remote_code=trust_remote_code, dtype=dtype)
        app = create_app(Explainer(loaded.adapter, encodings=ENCODINGS), settings)
        out_console.print(server.url_of(listener), markup=False)
        logs.configure()
        server.server_of(app).run([listener])
