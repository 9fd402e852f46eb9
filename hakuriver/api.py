"""The blocking client of the host's API: stdlib only, because a CLI call must answer in 150 ms."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from hakuriver import WIRE_VERSION
from hakuriver.errors import Unreachable, UsageError, from_json
from hakuriver.paths import HEADER_MACHINE, HEADER_WIRE

Query = Mapping[str, str | int | float | None]


def address(path: str, query: Query | None = None) -> str:
    """A path with its query; values that are None are left out."""
    given = {key: value for key, value in (query or {}).items() if value is not None}
    return f"{quote(path)}?{urlencode(given)}" if given else quote(path)


def common_headers(token: str) -> dict[str, str]:
    """What every request to either API carries."""
    return {
        "Authorization": f"Bearer {token}",
        HEADER_WIRE: str(WIRE_VERSION),
        HEADER_MACHINE: socket.gethostname().encode("ascii", "replace").decode(),
    }


class Client:
    """One host, one credential. Every call opens its own connection and has a timeout."""

    def __init__(self, url: str, token: str, *, timeout: float = 15) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = None
        if (
            parts.scheme not in ("http", "https")
            or not re.fullmatch(r"[\w.:%-]+", parts.hostname or "")
            or (":" in parts.netloc.rpartition("]")[2] and port is None)
        ):
            raise UsageError(f"host address {url!r} can't be understood", hint="write http://ADDRESS:PORT")
        self.url = url.rstrip("/")
        self._parts = parts
        self._token = token
        self._timeout = timeout

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """One exchange; returns decoded JSON, raises the error that the host answered with."""
        with self.open(method, path, query=query, body=body, headers=headers, timeout=timeout) as response:
            try:
                return json.loads(response.read() or b"null")
            except json.JSONDecodeError:
                raise from_json(response.status, None) from None

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """An open answer, for streams; the timeout is that of each read. ``body`` is bytes, JSON-able, or a
        file (anything with ``read``), whose length a header must tell."""
        sent = dict(headers or {}) | common_headers(self._token)
        data: Any = None
        if isinstance(body, bytes) or hasattr(body, "read"):
            data = body
        elif body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        connection = self._connected(timeout or self._timeout)
        try:
            with suppress(
                BrokenPipeError, ConnectionResetError
            ):  # refused while it was sent: the answer says why
                connection.request(method, address(path, query), body=data, headers=sent)
            response = connection.getresponse()
            if response.status >= 400:
                raise from_json(response.status, _decoded(response.read()))
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise self._away(error) from error
        finally:
            connection.close()

    def _connected(self, timeout: float) -> http.client.HTTPConnection:
        """A connection over which nothing was sent yet; raises Unreachable."""
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=timeout)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise self._away(error) from error
        return connection

    def _away(self, error: Exception) -> Unreachable:
        return Unreachable(
            f"the host at {self.url} doesn't answer: {_reason(error)}", hint="hakuriver status shows more"
        )


def _decoded(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError | socket.timeout):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
