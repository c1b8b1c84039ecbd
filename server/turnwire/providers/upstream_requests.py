"""What the requests of all APIs share: where they go, and fields that each says in its own way.

Pure.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

from turnwire.ports import StepRequest

OUTPUT_TOKENS_FIELDS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""Under any of these names a client may ask for less output than the model is configured for."""


def endpoint(base_url: str, path: str, api_version: str | None = None) -> str:
    """Where to post; the base's query stays, and `api_version` is added to it as Azure wants it.

    Raises ValueError unless `base_url` is an http or https address.
    """
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{base_url!r} is no http or https address")
    query = parts.query
    if api_version is not None:
        query = "&".join(filter(None, [query, f"api-version={quote(api_version, safe='')}"]))
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path, query=query, fragment=""))


def host_of(base_url: str) -> str:
    return urlsplit(base_url).hostname or ""


def key_headers(header: str, api_key: str | None) -> dict[str, str]:
    """The header that carries the key, `Bearer` before it where its name is `authorization`."""
    if api_key is None:
        return {}
    return {header: f"Bearer {api_key}" if header == "authorization" else api_key}


def output_tokens_of(request: StepRequest) -> int | None:
    """The lowest limit of output tokens that anyone set."""
    limits = [request.output_tokens_max, *(request.params.get(name) for name in OUTPUT_TOKENS_FIELDS)]
    return min((limit for limit in limits if isinstance(limit, int) and not isinstance(limit, bool)), default=None)


def fitting_id(call: str, pattern: re.Pattern[str], chars: int) -> str:
    """A tool call's id where a service restricts them: itself if it fits, else `chars` of its hash.

    A conversation may have begun with another service, whose ids look otherwise.
    """
    return call if pattern.fullmatch(call) else hashlib.sha256(call.encode()).hexdigest()[:chars]


def data_url(image: Mapping[str, Any]) -> str:
    return f"data:{image['media_type']};base64,{image['data']}"


def text_of(parts: Sequence[Mapping[str, Any]], between: str = "") -> str:
    """The texts among `parts`, as one."""
    return between.join(part["text"] for part in parts if part["type"] == "text")


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}
