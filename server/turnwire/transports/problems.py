"""Errors over HTTP: RFC 9457 problem details, with the code and the advice of the protocol.

`detail` is a sentence for users. Exception text never gets here.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.responses import Response

from turnwire_protocol.codes import RETRY_ADVICE, ErrorCode

MEDIA_TYPE: Final = "application/problem+json"


class Problem(Exception):
    """A request that is answered with an error. `detail` is for users; `headers` go with the response."""

    def __init__(
        self,
        status: int,
        code: ErrorCode,
        detail: str,
        *,
        retry_after_ms: int | None = None,
        upgrade_url: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code: ErrorCode = code
        self.detail = detail
        self.retry_after_ms = retry_after_ms
        self.upgrade_url = upgrade_url
        self.headers = dict(headers or {})

    def response(self) -> Response:
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            # A request has no id that a new turn could do without: what failed for a reason of ours may be sent again.
            "retry": "same_frame" if self.code == "internal" else RETRY_ADVICE[self.code],
        }
        headers = dict(self.headers)
        if self.retry_after_ms is not None:
            body["retry_after_ms"] = self.retry_after_ms
            headers["retry-after"] = str(-(-self.retry_after_ms // 1000))
        if self.upgrade_url is not None:
            body["upgrade_url"] = self.upgrade_url
        return Response(orjson.dumps(body), self.status, headers, MEDIA_TYPE)
