"""What every command is given: how to print, and which cluster to talk to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from hakuriver import endpoint
from hakuriver.api import Client


@dataclass(frozen=True, slots=True)
class Context:
    """The options that every command takes. ``command`` is what stands after ``--``, None without one."""

    json: bool = False
    quiet: bool = False
    host: str | None = None
    token_file: str | None = None
    state_dir: str | None = None
    command: tuple[str, ...] | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def endpoint(self) -> endpoint.Endpoint:
        """The cluster that is meant; raises NoCluster, UsageError or ConfigError."""
        return endpoint.resolve(
            host=self.host, token_file=self.token_file, state_dir=self.state_dir, environ=self.environ
        )

    def client(self) -> Client:
        """A client of that cluster. Its place is read anew each time: a restart may have moved it."""
        found = self.endpoint()
        if found.state is None:
            return Client(found.url, found.token)
        from hakuriver.cli.patience import PatientClient

        return PatientClient(found, self.endpoint)
