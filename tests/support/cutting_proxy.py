"""A proxy between a browser and a node that can cut WebSockets, refuse them, and lead to another node."""

from typing import Final

from tests.support.tcp_proxy import TcpProxy

WEBSOCKET: Final = b"GET /v1/ws"


class CuttingProxy(TcpProxy):
    """Tells WebSockets from pages that are loaded; these always get through."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port, _kind_of)

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def websockets(self) -> int:
        """How many are open."""
        return self.count("websocket")

    @property
    def refusing(self) -> bool:
        """New WebSockets are cut off at once; the page's files still load."""
        return self.rule("websocket").refuse

    @refusing.setter
    def refusing(self, value: bool) -> None:
        self.rule("websocket").refuse = value

    def cut(self, kind: str = "websocket") -> int:
        """Reset every WebSocket where it stands; how many there were."""
        return super().cut(kind)


def _kind_of(head: bytes) -> str | None:
    if b"\n" not in head:
        return None
    return "websocket" if head.startswith(WEBSOCKET) else "page"
