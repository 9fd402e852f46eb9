"""The asynchronous client of both APIs, for daemons and the TUI. Import it late: httpx costs 150 ms."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from hakuriver.api import Query, address, common_headers
from hakuriver.errors import Unreachable, from_json


class AsyncClient:
    """One daemon, one credential, one connection pool. Use it as an async context manager or call aclose."""

    def __init__(self, url: str, token: str, *, timeout: float = 15) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.AsyncClient(
            base_url=self.url, headers=common_headers(token), timeout=timeout, trust_env=False
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """One exchange; returns decoded JSON, raises the error that the daemon answered with."""
        async with self.open(
            method, path, query=query, body=body, headers=headers, timeout=timeout
        ) as response:
            try:
                return json.loads(await response.aread() or b"null")
            except json.JSONDecodeError:
                raise from_json(response.status_code, None) from None

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """An open answer, for streams; the timeout is that of connecting and of each read."""
        sent = dict(headers or {})
        data: bytes | None = body if isinstance(body, bytes) else None
        if body is not None and data is None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        request = self._http.build_request(
            method,
            address(path, query),
            content=data,
            headers=sent,
            timeout=timeout if timeout is not None else httpx.USE_CLIENT_DEFAULT,
        )
        try:
            response = await self._http.send(request, stream=True)
            try:
                if response.status_code >= 400:
                    raise from_json(response.status_code, _decoded(await response.aread()))
                yield response
            finally:
                await response.aclose()
        except httpx.TimeoutException as error:
            raise Unreachable(f"{self.url} doesn't answer: timed out") from error
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.url} doesn't answer: {str(error) or type(error).__name__}") from error


def _decoded(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return None
