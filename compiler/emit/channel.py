"""What two processes say to each other over a socket pair: messages with arrays, large ones through memory of both.

    frame = u32 n | u64 size[n] | head, part_1 … part_n-1      head = pickle of (message, places), parts = its arrays

Small arrays are inside the pickle. Larger ones travel out of band (pickle protocol 5): where the system can share
memory, the sender copies them into a block that both have mapped, and says where; else they go through the socket. A
block belongs to its sender, who writes the next message over it when the other side has answered: a reader copies what
it is sent, unless it promises to be done with it by then (`borrow`).
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import struct
from typing import Any

_LEAST = 1 << 15  # bytes of an array, below which finding its place costs more than copying it
_MOST = 1 << 29  # bytes of a block, which stays as large as the largest message was
_ALIGNED = 64


class Channel:
    """One end of the pair; `socket` is its own."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._written: mmap.mmap | None = None  # arrays of messages that go out
        self._read: mmap.mmap | None = None  # of those that come

    def send(self, message: object) -> None:
        """Send `message`; what pickle refuses is raised before a byte has left."""
        buffers: list[memoryview] = []
        body = pickle.dumps(message, protocol=5, buffer_callback=lambda buffer: _stays(buffer, buffers))
        places, total = [], 0
        for buffer in buffers:
            places.append((total, buffer.nbytes))
            total += -(-buffer.nbytes // _ALIGNED) * _ALIGNED
        block, new = self._block(total) if buffers else (None, None)
        if block is not None:
            for (start, size), buffer in zip(places, buffers, strict=True):
                block[start : start + size] = buffer
        head = pickle.dumps((body, places if block is not None else None))
        parts = [memoryview(head), *(buffers if block is None else ())]
        first = struct.pack(f"<I{len(parts)}Q", len(parts), *(part.nbytes for part in parts))
        if new is not None:  # travels with the frame's first bytes
            sent = socket.send_fds(self.socket, [first], [new])
            os.close(new)
            first = first[sent:]
        self.socket.sendall(first + head)
        for part in parts[1:]:
            self.socket.sendall(part)

    def receive(self, borrow: bool = False) -> Any:
        """The next message; EOFError when the other side has hung up. `borrow`: its arrays are good until the next."""
        first, fds, _, _ = socket.recv_fds(self.socket, 4, 1)
        if fds:
            self._read = mmap.mmap(fds[0], 0)
            os.close(fds[0])
        if not first:
            raise EOFError
        (count,) = struct.unpack("<I", first + _exactly(self.socket, 4 - len(first)))
        sizes = struct.unpack(f"<{count}Q", _exactly(self.socket, 8 * count))
        head, *buffers = [_exactly(self.socket, size) for size in sizes]
        body, places = pickle.loads(head)
        if places is not None:
            whole = memoryview(self._read or b"")
            shared = (whole[start : start + size] for start, size in places)
            return pickle.loads(body, buffers=list(shared) if borrow else map(bytearray, shared))
        return pickle.loads(body, buffers=buffers)

    def _block(self, size: int) -> tuple[mmap.mmap | None, int | None]:
        """A block of `size` bytes or more to write to, and its descriptor where the other side does not have it yet."""
        if size > _MOST or not hasattr(os, "memfd_create"):
            return None, None
        if self._written is not None and len(self._written) >= size:
            return self._written, None
        descriptor = -1
        try:
            descriptor = os.memfd_create("edgec")
            os.ftruncate(descriptor, size + size // 4)  # a cache grows from step to step
            self._written = mmap.mmap(descriptor, 0)
        except OSError:  # within a limit of memory, or where nothing may be shared
            if descriptor >= 0:
                os.close(descriptor)
            return None, None
        return self._written, descriptor


def _stays(buffer: pickle.PickleBuffer, taken: list[memoryview]) -> bool:
    """Whether an array stays inside the pickle; if not, it is taken out."""
    raw = buffer.raw()
    if raw.nbytes >= _LEAST:
        taken.append(raw)
    return raw.nbytes < _LEAST


def _exactly(channel: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        got = channel.recv_into(view)
        if not got:
            raise EOFError
        view = view[got:]
    return data
