"""The server of the app: it runs until it is stopped, and keeps nothing."""

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from regen.app.limits import Limits
from regen.app.models import AppModels
from regen.app.page import CSS, Workplace, build_page
from regen.app.work import App
from regen.console import interrupt_on_sigterm
from regen.runtime import pick_device, pick_dtype, set_threads

INSTALL = "install it by: pip install 'regen[app]'"
PRIVATE = {"GRADIO_ANALYTICS_ENABLED": "False"}
FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # those of gradio are fetched


@dataclass(frozen=True)
class Serving:
    """Where the server listens; `port` None is the first free one from 7860. `share`: a public address."""

    host: str = "127.0.0.1"
    port: int | None = None
    share: bool = False


def serve(models: Sequence[str], limits: Limits, serving: Serving, **runtime: Any) -> None:
    """Run the app until it is interrupted; `runtime` is that of `load_app`. Raises ValueError or OSError."""
    require_gradio()
    check_address(serving)
    app = load_app(models, limits, **runtime)
    with interrupt_on_sigterm(), running(app, serving) as address:
        print(f"The app is at {address} (Ctrl+C stops it)", flush=True)
        try:
            while not threading.Event().wait(3600):
                pass
        except KeyboardInterrupt:
            print("Stopped; its files are deleted.")


def check_address(serving: Serving) -> None:
    """Raise ValueError when the address is in use, or none of this machine."""
    if serving.port is not None and not 0 < serving.port < 2**16:
        raise ValueError(f"--port must be 1 to 65535, got {serving.port}.")
    family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
    try:
        socket.create_server((serving.host, serving.port or 0), family=family).close()
    except OSError:
        place = serving.host if serving.port is None else f"{serving.host}:{serving.port}"
        advice = "give another --port or --host"
        raise ValueError(f"{place} is in use, or no address of this machine; {advice}.") from None


def require_gradio() -> None:
    """Raise ValueError, with the command that installs it, when gradio is missing."""
    if find_spec("gradio") is None:
        raise ValueError(f"The app needs the package gradio; {INSTALL}.")


def load_app(
    models: Sequence[str],
    limits: Limits,
    device: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> App:
    """The app with the models that are here and `models`. Raises ValueError for unknown names and values."""
    set_threads(threads)
    chosen = pick_device(device)
    return App(AppModels(models, chosen, pick_dtype(dtype, chosen)), limits)


@contextmanager
def running(app: App, serving: Serving) -> Iterator[str]:
    """Serve the app during the block, at the address given; its folder is deleted at the end."""
    with ExitStack() as stack:
        temporary = TemporaryDirectory(prefix="regen-app-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        stack.enter_context(_environment(PRIVATE | {"GRADIO_TEMP_DIR": str(folder / "files")}))
        import gradio

        page = build_page(Workplace(app, folder))
        stack.callback(page.close, verbose=False)
        sans, mono = FONTS
        _, local, shared = page.launch(
            server_name=serving.host,
            server_port=serving.port,
            share=serving.share,
            max_file_size=app.limits.upload_bytes,
            theme=gradio.themes.Soft(font=sans, font_mono=mono),
            css=CSS,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
        )
        yield shared or local


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables of the environment during the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
