"""Starts the server, says where it is, and leaves nothing behind when it ends."""

from __future__ import annotations

import dataclasses
import inspect
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from openseg_jax.errors import UserError, expected
from openseg_jax.web.limits import Limits

__all__ = ["Options", "free_port", "serve"]

UPLOAD_FOLDER_BYTES = 1_000_000_000
"""Of all uploads together; the oldest are removed first."""

SESSIONS = 16
"""gradio keeps the last results of at most this many pages."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What the person who starts the server decides.

    Attributes:
        host, port: to listen on; port 0 takes a free one.
        models: names or folders that visitors may use, besides the miniature; the first is the one
            that is chosen when the page opens.
        sam: the same for SAM's weights.
        limits: of a request.
        queue: requests that may wait. at_once: worked on at the same time.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    models: Sequence[str] = ()
    sam: Sequence[str] = ()
    limits: Limits = dataclasses.field(default_factory=Limits)
    queue: int = 32
    at_once: int = 1

    def __post_init__(self) -> None:
        for name in ("queue", "at_once"):
            if getattr(self, name) < 1:
                flag = f"--{name.replace('_', '-')}"
                raise expected(flag, "at least 1", str(getattr(self, name)), "leave it out")
        if not 0 <= self.port <= 65535:
            raise expected("--port", "0 to 65535", str(self.port), "try 7860")


def free_port(host: str, port: int) -> int:
    """Returns the port itself when it is free; for 0, one that is.

    Raises:
        UserError: when something else listens there, or the host is not this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except (OSError, UnicodeError) as error:  # the latter for what can be no name of a host
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"--host, --port: cannot listen on {host}:{port} ({reason}); try --port 0, which "
            "takes a free one"
        ) from error


def serve(options: Options, *, ready: Callable[[str], None]) -> None:
    """Serves the page until the process is told to end (Ctrl-C or SIGTERM).

    Args:
        options: see there.
        ready: called with the page's address when it answers.
    Raises:
        UserError: without gradio, for weights that cannot be loaded, or a port that is taken.
    """
    previous = signal.signal(signal.SIGTERM, _leave)
    folder = Path(tempfile.mkdtemp(prefix="openseg_serve_"))
    try:
        _environment(folder)
        try:
            import gradio  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"openseg serve needs gradio ({error}); pip install 'openseg_jax[web]'"
            ) from error
        page, url = _launch(options, folder)
        try:
            ready(url)
            threading.Event().wait()
        finally:
            page.close(verbose=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, previous)


def _leave(*_: Any) -> None:
    """Ends the process by way of every `finally`, also while weights are still being loaded."""
    raise SystemExit(0)


def _environment(folder: Path) -> None:
    # Read by gradio when it is imported: where uploads go, and that nothing is reported.
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    # gradio asks its own server whether it is up; a proxy cannot know.
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [h for h in os.environ.get(name, "").split(",") if h]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))


def _launch(options: Options, folder: Path) -> tuple[Any, str]:
    from starlette.middleware import Middleware

    from openseg_jax.web import page as pages
    from openseg_jax.web.guard import Guard
    from openseg_jax.web.models import Models, Programs, allowed

    free_port(options.host, options.port)  # said now, not after a minute of loading
    # The first is chosen when the page opens.
    table, sam = allowed([*options.models, "miniature"]), allowed(options.sam)
    service = pages.Service(
        Models(table, sam=sam), Programs(), options.limits, at_once=options.at_once
    )
    # What cannot be loaded is said now, to the person who can mend it. The first comes last, so
    # that it is in memory still when the page opens with it.
    for name in reversed(table):
        service.models.clip(name)
    for path in sam.values():
        service.models.segmenter("car", "miniature", {"sam": path})
    page = pages.build(service)
    page.queue(max_size=options.queue, default_concurrency_limit=options.at_once)
    guard = Middleware(
        Guard, folder=folder, upload_bytes=options.limits.upload_bytes,
        folder_bytes=max(UPLOAD_FOLDER_BYTES, 2 * options.limits.upload_bytes),
    )  # fmt: skip
    # Not found earlier: others take ports, too.
    port = free_port(options.host, options.port)
    wanted: dict[str, Any] = {
        "server_name": options.host, "server_port": port, "share": False, "quiet": True,
        "prevent_thread_lock": True, "show_error": False, "inbrowser": False, "ssr_mode": False,
        "mcp_server": False, "enable_monitoring": False, "run_history": False, "pwa": False,
        "max_file_size": options.limits.upload_bytes, "allowed_paths": [], "footer_links": [],
        "state_session_capacity": SESSIONS, "strict_cors": True,
        "app_kwargs": {"middleware": [guard], "docs_url": None, "redoc_url": None},
        **pages.looks(),
    }  # fmt: skip
    # Later versions of gradio have more to switch off than earlier ones.
    known = inspect.signature(page.launch).parameters
    page.launch(**{name: value for name, value in wanted.items() if name in known})
    shown = "127.0.0.1" if options.host in ("0.0.0.0", "::") else options.host
    return page, f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
