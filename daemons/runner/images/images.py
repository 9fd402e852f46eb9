"""The image that an attempt is to run in, on this node: found, or brought here while it is ``preparing``."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO, TypeVar

from docker.errors import APIError, ImageNotFound

from daemons.common.engine import STREAM_TIMEOUT, EngineClient
from daemons.common.log import Log
from daemons.common.threads import Threads
from daemons.runner.images import engine, tarballs
from daemons.runner.images.flights import Flight, Flights, Image
from daemons.runner.images.record import Record
from daemons.runner.images.stage import Stage
from daemons.runner.images.tarballs import WrongFile, what_of
from daemons.runner.model import TryLater, Work
from hakuriver.api import Client
from hakuriver.environments import image_tag, is_ours, parse_reference
from hakuriver.errors import CannotFit, HakuRiverError, NotAllowed, StorageFull
from hakuriver.nodewire import EnvironmentRef

T = TypeVar("T")
AT_ONCE = 2
"""Images that are fetched or loaded at a time."""
LOAD_TIMEOUT = 6 * 3600.0
STALLED = 15.0
"""Seconds without a byte after which the shared folder counts as one that hangs."""
SILENCE = STREAM_TIMEOUT + 60
"""Seconds for which an engine that loads may say nothing: it keeps to its own timeout before."""
log = Log("images")


class Images:
    """Finds and brings images for one engine. ``shared``: the folder of the tarballs, ``folder``: for what
    comes from the host."""

    def __init__(self, client: EngineClient, host: Client, *, shared: Path, folder: Path, node: str) -> None:
        self._engine = client
        self._host = host
        self._shared = shared
        self._node = node
        self.folder = folder
        self.record = Record(folder / "loaded.json")
        self._files = Threads("images", 1)  # our own disk; the shared folder gets threads that may hang
        self._writing = asyncio.Lock()
        self._wrong: dict[str, tarballs.Print] = {}
        self._hangs: asyncio.Future[BinaryIO] | None = None  # a read of the shared folder that was given up
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self.flights = Flights()
        self.brought = asyncio.Event()

    async def open(self) -> None:
        """Know again what was loaded."""
        await self._files.call(self._open)

    def _open(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.record.read()

    def close(self) -> None:
        self._files.close()

    # ---- for attempts

    async def ready(self, work: Work) -> Image:
        """What the engine says of an attempt's image, which is on this node now. Raises TryLater and
        EngineAway while it can't be, HakuRiverError when it never will."""
        spec = work.attempt.spec
        if spec.environment is not None:
            alias = spec.container is not None and parse_reference(spec.container).version is None
            return await self.environment(spec.environment, work, alias=alias)
        name = spec.image or ""
        found = await self._inspect(name)
        if found is not None:
            return found
        if is_ours(name) or re.fullmatch(r"sha256:[0-9a-f]{64}", name):
            hint = f"hakuriver task resubmit {spec.task}" if is_ours(name) else ""
            raise CannotFit(f"image {name} is not on node {self._node}", hint=hint, code="no_image")
        return await self.flights.bring(("image", name), name, partial(self._pull, name), work)

    async def environment(self, ref: EnvironmentRef, work: Work | None, *, alias: bool) -> Image:
        """The image of a version; ``alias``: it gets the name without a version, too."""
        found = await self.known(ref)
        if found is None:
            found = await self.flights.bring(ref, what_of(ref), partial(self._bring, ref), work)
        mine = self.record.find(ref)
        if mine is not None:
            await self.written(lambda: self.record.use(ref, mine.image))
            if alias and self.record.current(ref.name) != mine.image:
                await self.ask(lambda api: engine.tag(api, mine.image, image_tag(ref.name)))
                await self.written(lambda: self.record.make_current(ref.name, mine.image))
        return found

    async def known(self, ref: EnvironmentRef) -> Image | None:
        """What the engine says of a version that is loaded: under the id that it got here, or the host's."""
        mine = self.record.find(ref)
        for image in dict.fromkeys([mine.image if mine is not None else ref.image, ref.image]):
            found = await self._inspect(image)
            if found is not None:
                return found
        return None

    async def _inspect(self, name: str) -> Image | None:
        try:
            return dict(await self.ask(lambda api: api.inspect_image(name)))
        except ImageNotFound:
            return None

    async def ask(self, function: Callable[..., T]) -> T:
        """The engine's answer; a refusal that isn't about a missing image is worth another try."""
        try:
            return await self._engine.call(function)
        except ImageNotFound:
            raise
        except APIError as error:
            raise TryLater(f"the engine is in trouble: {error.explanation}") from error

    async def written(self, change: Callable[[], None]) -> None:
        """Change the record; raises TryLater."""
        async with self._writing:
            try:
                await self._files.call(change)
            except OSError as error:
                raise TryLater(
                    f"it can't be written down what was loaded: {error.strerror or 'timed out'}"
                ) from error

    # ---- images of registries

    async def _pull(self, name: str, flight: Flight) -> Image:
        async with self._turn(flight):
            stage = flight.next_stage("pulling")
            await self._stream(lambda api: engine.pull(api, name, self._node, stage))
        found = await self._inspect(name)
        if found is None:
            raise TryLater(f"image {name} was pulled and is gone")
        log.info("image_pulled", image=name)
        return found

    async def _stream(self, function: Callable[..., T]) -> T:
        try:
            return await self._engine.stream(function, LOAD_TIMEOUT)
        except TimeoutError:
            raise TryLater("the Docker engine doesn't come to an end") from None
        except APIError as error:
            raise TryLater(f"the engine is in trouble: {error.explanation}") from error

    # ---- versions

    async def _bring(self, ref: EnvironmentRef, flight: Flight) -> Image:
        """Find the tarball, load it, write down that it is ours, name it."""
        fetched = self.folder / f"{ref.sha256}.part"
        try:
            file, why = await self._shared_tarball(ref, flight), ""
        except WrongFile as error:
            file, why = None, str(error)
            log.info("tarball_not_shared", environment=ref.name, version=ref.version, why=why)
        async with self._turn(flight):
            if file is None:
                file = await self._fetched_tarball(ref, fetched, why, flight)
            with file:
                # before: what is found under this id after a crash was loaded by us
                await self.written(lambda: self.record.use(ref, ref.image))
                image = await self._load(ref, file, flight)
            await self.written(lambda: self.record.use(ref, image))
        await self.ask(lambda api: engine.tag(api, image, image_tag(ref.name, ref.version)))
        with contextlib.suppress(OSError):  # it goes when it is old
            await self._files.call(partial(fetched.unlink, missing_ok=True))
        found = await self._inspect(image)
        if found is None:
            raise TryLater(f"{what_of(ref)} was loaded and is gone")
        log.info("image_loaded", environment=ref.name, version=ref.version, image=image)
        self.brought.set()
        return found

    @asynccontextmanager
    async def _turn(self, flight: Flight) -> AsyncIterator[None]:
        if self._at_once.locked():
            flight.next_stage("others are loaded first, waiting for")
        async with self._at_once:
            yield

    async def _load(self, ref: EnvironmentRef, file: BinaryIO, flight: Flight) -> str:
        stage = flight.next_stage("loading")
        loading = asyncio.create_task(self._stream(lambda api: engine.load(api, file, ref, stage)))
        try:
            return await _while_it_moves(loading, stage, SILENCE)
        except TimeoutError:
            raise TryLater(f"the load of {what_of(ref)} stands still") from None
        except engine.ShortFile:
            raise TryLater(f"the tarball of {what_of(ref)} changed while it was loaded") from None
        finally:
            stage.give_up()
            loading.cancel()

    async def _fetched_tarball(
        self, ref: EnvironmentRef, path: Path, shared: str, flight: Flight
    ) -> BinaryIO:
        """The verified file of the host; ``shared``: why not that of the shared folder."""
        stage = flight.next_stage("fetching")
        thread = Threads("image-fetch", 1)
        try:
            return await thread.call_within(LOAD_TIMEOUT, partial(self._fetch, ref, path, stage))
        except StorageFull:
            raise
        except (WrongFile, HakuRiverError) as error:
            if _may_heal(error):
                raise TryLater(f"{what_of(ref)} can't be fetched: {error}") from error
            why = f"{shared}; as the host sends it: {error}"
            raise CannotFit(
                f"environment {what_of(ref)} can't be used on node {self._node}: {why}",
                hint=f"pack it again, or: hakuriver env rollback {ref.name}",
                code="bad_image",
            ) from error
        except TimeoutError:
            raise TryLater(f"{what_of(ref)} can't be fetched: it takes too long") from None
        finally:
            stage.give_up()
            thread.close()

    async def _shared_tarball(self, ref: EnvironmentRef, flight: Flight) -> BinaryIO:
        """The verified file of the shared folder; raises WrongFile."""
        if self._hangs is not None and not self._hangs.done():
            raise WrongFile(f"{self._shared} hangs")
        stage = flight.next_stage("looking for")
        thread = Threads("image-shared", 1)
        job = partial(tarballs.open_shared, self._shared, ref, self._wrong, stage)
        reading = asyncio.wrap_future(thread.submit(job))
        reading.add_done_callback(_heard)
        try:
            return await _while_it_moves(reading, stage, STALLED)
        except TimeoutError:
            self._hangs = reading
            raise WrongFile(f"{self._shared} hangs") from None
        finally:
            stage.give_up()
            thread.close()

    def _fetch(self, ref: EnvironmentRef, path: Path, stage: Stage) -> BinaryIO:
        file = tarballs.open_partial(path)
        try:
            tarballs.fetch_right(self._host, ref, file, path, stage)
        except BaseException:
            if not file.tell():
                path.unlink(missing_ok=True)
            file.close()
            raise
        return file


async def _while_it_moves(future: asyncio.Future[T], stage: Stage, patience: float) -> T:
    """Its result; raises TimeoutError when its stage doesn't get on for so many seconds."""
    while True:
        before = stage.moves
        await asyncio.wait({future}, timeout=patience)
        if future.done():
            return future.result()
        if stage.moves == before:
            raise TimeoutError


def _may_heal(error: WrongFile | HakuRiverError) -> bool:
    """Whether a fetch that ended so is worth another try: it is about the two daemons, not about the file."""
    if isinstance(error, WrongFile):
        return False
    return error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR or isinstance(error, NotAllowed)


def _heard(future: asyncio.Future[BinaryIO]) -> None:
    """An error that came too late is nobody's."""
    if not future.cancelled():
        future.exception()
