"""Rows of a graph while it is computed: in memory, or in a file from which a computation that was killed goes on.

A partial file is a line of JSON that says what is computed, then records: what passes of the computation gave. A
    record is
(all numbers little-endian) `rows`, a 64-bit count of rows, a 64-bit count of bytes, the CRC-32 of what follows, the
rows' names and lengths (64-bit each), and their values. A record that is cut short or does not fit its sum ends the
file.
"""

import json
import os
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import FileError

try:
    import fcntl
except ImportError:  # not on Windows; there two computations of the same graph may disturb each other
    fcntl = None

_HEAD = struct.Struct("<4sQQI")
_MAGIC = b"rows"
_AT_ONCE = 1 << 24


class _Place(NamedTuple):
    offset: int
    length: int


class RowStore:
    """Rows by name, in memory or on disk.

    Args:
        path: the partial file; None: a nameless one in `folder`, or with `folder` None memory.
        facts: what the rows depend on; rows of a file that says anything else are thrown away.

    Raises:
        FileError: the file cannot be written, or another process is at work on it.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        path: Path | None = None,
        facts: dict[str, Any] | None = None,
        folder: Path | None = None,
    ):
        self.dtype, self.path, self.folder = dtype, path, folder
        self._rows: dict[int, Tensor | _Place] = {}
        self._file: BinaryIO | None = None
        if path is None and folder is None:
            return
        try:
            if path is None:
                self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  closed by close()
            else:
                self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
                self._lock()
                self._take_up((json.dumps(facts or {}, sort_keys=True) + "\n").encode())
            self._end = self._file.seek(0, os.SEEK_END)
        except (OSError, FileError) as error:
            self.close(remove=False)
            raise (
                error
                if isinstance(error, FileError)
                else FileError(f"cannot write {path or folder}: {error.strerror or error}")
            ) from error

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: int) -> bool:
        return name in self._rows

    @property
    def on_disk(self) -> bool:
        """Whether rows are in a file."""
        return self._file is not None

    def add(self, names: Int[Tensor, " row"], rows: list[Float[Tensor, " _"]]) -> None:
        """Keep the rows of one pass.

        Raises:
            FileError: the disk is full; what was added before is kept.
        """
        if self._file is None:
            self._rows |= dict(zip(names.tolist(), rows, strict=True))
            return
        lengths = torch.tensor([len(row) for row in rows])
        parts = [_bytes(part.contiguous()) for part in (names.long(), lengths, *rows)]
        check = 0
        for part in parts:
            check = zlib.crc32(part, check)
        try:
            self._write(self._end, [_HEAD.pack(_MAGIC, len(rows), sum(map(len, parts)), check), *parts])
        except OSError as error:
            raise FileError(
                f"cannot write {self.path or self.folder}: {error.strerror or error}; rows computed so far are kept, "
                f"make room and run the same again"
            ) from error
        self._end = self._index(names, lengths, self._end)

    def row(self, name: int) -> Float[Tensor, " _"]:
        """One row's values."""
        place = self._rows[name]
        if isinstance(place, Tensor):
            return place
        values = torch.empty(place.length, dtype=self.dtype)
        self._read(place.offset, _bytes(values))
        return values

    def close(self, remove: bool = True) -> None:
        """Let go of the rows; with `remove`, of the file too."""
        self._rows = {}
        if self._file is not None:
            if remove and self.path is not None:
                self.path.unlink(missing_ok=True)
            self._file.close()

    def _index(self, names: Tensor, lengths: Tensor, begin: int) -> int:
        """Enter a record's rows; returns where it ends."""
        offset = begin + _HEAD.size + 16 * len(names)
        for name, count in zip(names.tolist(), lengths.tolist(), strict=True):
            self._rows[name] = _Place(offset, count)
            offset += count * self.dtype.itemsize
        return offset

    def _write(self, offset: int, parts: list[bytes | memoryview]) -> None:
        assert self._file is not None
        self._file.seek(offset)
        for part in map(memoryview, parts):
            while len(part):
                part = part[self._file.write(part) :]

    def _read(self, offset: int, into: memoryview) -> None:
        while len(into):
            read = self._at(offset, min(_AT_ONCE, len(into)))
            if not read:
                raise FileError(f"{self.path or self.folder}: rows that were written are gone; trace the prompt again")
            into[: len(read)] = read
            into, offset = into[len(read) :], offset + len(read)

    def _at(self, offset: int, count: int) -> bytes:
        """At most so many bytes from there; by seeking, because not every system has `os.pread`."""
        assert self._file is not None
        self._file.seek(offset)
        return self._file.read(count)

    def _lock(self) -> None:
        assert self._file is not None
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise FileError(
                    f"{self.path} is in use: the same graph is being traced by another process; wait for it, or give "
                    f"another --out"
                ) from error

    def _take_up(self, head: bytes) -> None:
        """Enter the whole records of a file that was left, if it is about the same; cut off what follows them."""
        assert self._file is not None
        size, end = os.fstat(self._file.fileno()).st_size, 0
        if self._at(0, len(head)) == head:
            end = len(head)
            while (after := self._record(end, size)) is not None:
                end = after
        else:
            self._file.truncate(0)
            self._write(0, [head])
            end = len(head)
        self._file.truncate(end)

    def _record(self, begin: int, size: int) -> int | None:
        """Enter the record that begins here; None if there is no whole one."""
        head = self._at(begin, _HEAD.size)
        if len(head) < _HEAD.size:
            return None
        magic, count, length, check = _HEAD.unpack(head)
        offset, stop = begin + _HEAD.size, begin + _HEAD.size + length
        if magic != _MAGIC or stop > size or 16 * count > length:
            return None
        found = 0
        for at in range(offset, stop, _AT_ONCE):
            found = zlib.crc32(self._at(at, min(_AT_ONCE, stop - at)), found)
        table = torch.frombuffer(bytearray(self._at(offset, 16 * count)), dtype=torch.int64).view(2, count)
        if found != check or 16 * count + int(table[1].sum()) * self.dtype.itemsize != length:
            return None
        return self._index(table[0], table[1], begin)


def _bytes(values: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return values.numpy().data.cast("B") if len(values) else memoryview(b"")
