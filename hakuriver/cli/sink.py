"""Where log bytes go: raw into a pipe, harmless onto a terminal, NDJSON under ``--json``."""

from __future__ import annotations

import codecs
import sys
import threading
from typing import TextIO

from hakuriver.cli.follow import Chunk
from hakuriver.cli.output import LogCleaner, print_line, say
from hakuriver.units import format_size

_LINE = threading.Lock()
"""Two streams write NDJSON to one output: a line is one piece."""


class Sink:
    """One stream of one task, written to ``file``."""

    def __init__(self, stream: str, file: TextIO, *, as_json: bool) -> None:
        self._stream = stream
        self._file = file
        self._json = as_json
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._cleaner = LogCleaner() if file.isatty() and not as_json else None
        self._end = 0

    def write(self, chunk: Chunk) -> None:
        """Write one chunk; raises BrokenPipeError when nobody reads any more."""
        if chunk.gap:
            say(
                f"{format_size(chunk.gap)} bytes of {self._stream} were dropped here, over the log's size cap"
            )
        self._end = chunk.offset + len(chunk.data)
        if self._json:
            self._line(chunk.offset, chunk.data, final=False)
        elif self._cleaner:
            self._file.write(self._cleaner.feed(chunk.data))
            self._file.flush()
        else:
            self._file.buffer.write(chunk.data)
            self._file.buffer.flush()

    def close(self) -> None:
        """Write what was held back because it ended in the middle of a character."""
        if self._json:
            self._line(self._end, b"", final=True)
        elif self._cleaner:
            self._file.write(self._cleaner.feed(b"", final=True))
            self._file.flush()

    def _line(self, offset: int, data: bytes, *, final: bool) -> None:
        offset -= len(self._decoder.getstate()[0])
        text = self._decoder.decode(data, final)
        if text:
            with _LINE:
                print_line({"stream": self._stream, "offset": offset, "data": text})


def to_stdout(stream: str, *, as_json: bool) -> Sink:
    """A sink for a command that shows one stream."""
    return Sink(stream, sys.stdout, as_json=as_json)
