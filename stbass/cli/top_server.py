"""The web server of ``stbass top --serve``."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from textual_serve.server import Server

__all__ = ["TopServer"]


class TopServer(Server):
    """Serves it to the pages that it has made itself, and to no others."""

    def initialize_logging(self) -> None:
        """No line for each request."""

    async def on_startup(self, app: web.Application) -> None:
        """Say nothing: the command has said where it is."""

    async def handle_websocket(self, request: web.Request) -> Any:
        """Refuse other web sites: a page of theirs, in the same browser, could cancel what runs here."""
        origin = request.headers.get("Origin", self.public_url)
        if origin != self.public_url:
            raise web.HTTPForbidden(text=f"this is to be opened at {self.public_url}, and not from {origin}")
        return await super().handle_websocket(request)
