"""A page that shows how runs get on, served on this machine alone.

The page asks for `status.json` again and again; records are read anew only when a file has changed.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

from evaluation.analysis.progress import MethodProgress, SettingProgress, progress
from evaluation.report.colours import colour
from model.errors import UserError

HOST = "127.0.0.1"


class Watched:
    """A folder of runs; threads may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._seen: list[tuple[str, int, int]] = []
        self._settings: list[SettingProgress] = []
        self._notices: list[str] = []

    def status(self) -> dict[str, Any]:
        """As the page shows it. Damaged records are said; what was read before stays."""
        with self._lock:
            self._read()
            cores = os.cpu_count() or 1
            return {
                "folder": str(self.folder),
                "now": time.time(),
                "load": f"{os.getloadavg()[0]:.1f} of {cores} cores",
                "notices": self._notices,
                "settings": [_shown(setting) for setting in self._settings],
            }

    def _read(self) -> None:
        found = []
        for file in sorted(self.folder.rglob("*.jsonl")):
            told = file.stat()
            found.append((str(file), told.st_size, told.st_mtime_ns))
        if found == self._seen:
            return
        self._notices = []
        try:
            self._settings = progress(self.folder, self._notices)
        except UserError as error:
            self._notices = [str(error)]
        self._seen = found


def _shown(setting: SettingProgress) -> dict[str, Any]:
    methods = [_method(method) for method in setting.methods]
    return {"title": setting.title, "sentence": setting.sentence, "methods": methods}


def _method(method: MethodProgress) -> dict[str, Any]:
    """NaN, which JSON has not, as null."""
    row = asdict(method)
    up = method.speed_up
    row["speed_up"] = f"{up.ratio:.2f} [{up.low:.2f}, {up.high:.2f}]" if up else None
    row["colour"] = colour(method.method)
    for name, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            row[name] = None
    return row


class Handler(BaseHTTPRequestHandler):
    """Two pages; `server.watched` tells."""

    server: WatchServer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        if self.path == "/status.json":
            self._send(json.dumps(self.server.watched.status()), "application/json")
        elif self.path == "/":
            package = files("evaluation.report")
            page = package.joinpath("templates/watch.html").read_text(encoding="utf-8")
            style = package.joinpath("style.css").read_text(encoding="utf-8")
            self._send(page.replace("/* style */", style), "text/html; charset=utf-8")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _send(self, text: str, kind: str) -> None:
        content = text.encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)


class WatchServer(ThreadingHTTPServer):
    """Listens on this machine alone; port 0 is any that is free."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        self.watched = Watched(folder)
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            raise UserError(
                f"cannot listen on {HOST}:{port}: {error.strerror}; choose another with --port"
            ) from None
