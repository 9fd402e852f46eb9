"""What clients say on the WebSocket of a session, besides the bytes of standard input."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from hakuriver.errors import UsageError
from hakuriver.fields import MAX_ARGUMENTS, AbsolutePath, Argument, Strict, clear_message
from hakuriver.terminal import LONGEST_SIDE

Side = Annotated[int, Field(ge=1, le=LONGEST_SIDE)]
Variable = Literal["TERM", "COLORTERM", "LANG"]
User = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(:[A-Za-z0-9_.-]{1,64})?$")
]
SessionId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Count = Annotated[int, Field(ge=0, lt=2**62)]
T = TypeVar("T")


class Resize(Strict):
    """The window has another size."""

    type: Literal["resize"] = "resize"
    rows: Side
    cols: Side


class Open(Strict):
    """The first message of a new session; ``command`` null means the best shell that there is."""

    type: Literal["open"]
    command: Annotated[list[Argument], Field(min_length=1, max_length=MAX_ARGUMENTS)] | None = None
    tty: bool = False
    rows: Side = 24
    cols: Side = 80
    env: dict[Variable, Annotated[Argument, StringConstraints(max_length=200)]] = Field(default_factory=dict)
    user: User | None = None
    workdir: AbsolutePath | None = None


class Attach(Strict):
    """The first message of a client that comes back: it has ``received`` bytes of output."""

    type: Literal["attach"]
    session: SessionId
    received: Count


class Ack(Strict):
    """So many bytes of output, from the first on, were used."""

    type: Literal["ack"]
    received: Count


class Eof(Strict):
    """Standard input ends after so many bytes."""

    type: Literal["eof"]
    sent: Count


class Signal(Strict):
    """For what runs in the foreground, where there is no terminal that would do it."""

    type: Literal["signal"]
    signal: Literal[1, 2, 3, 15]


class Close(Strict):
    """The client is done: end what runs, or forget what has ended."""

    type: Literal["close"]


_first: TypeAdapter[Open | Attach] = TypeAdapter(Annotated[Open | Attach, Field(discriminator="type")])
_later: TypeAdapter[Resize | Ack | Eof | Signal | Close] = TypeAdapter(
    Annotated[Resize | Ack | Eof | Signal | Close, Field(discriminator="type")]
)


def first(text: str) -> Open | Attach:
    """The first message; raises UsageError."""
    return _parsed(_first, text)


def later(text: str) -> Resize | Ack | Eof | Signal | Close:
    """Any other; raises UsageError."""
    return _parsed(_later, text)


def _parsed(adapter: TypeAdapter[T], text: str) -> T:
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        raise UsageError(clear_message(error.errors(include_url=False)), code="invalid_message") from error
