"""Where a program listens, as the kernel says."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import struct
from pathlib import Path

import pytest


def listening(process):
    """Addresses at which a process, or one that it started, waits for connections over TCP.

    Args:
        process: its id.
    """
    if not Path("/proc/self/net/tcp").exists():
        pytest.skip("needs Linux, whose /proc says who listens")
    waiting = {}
    for table in ("tcp", "tcp6"):
        try:
            rows = Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for row in rows:
            _, local, _, state, *rest = row.split()
            if state == "0A":  # LISTEN
                waiting[rest[5]] = _address(local.partition(":")[0])
    return {waiting[inode] for one in _family(process) for inode in _sockets(one) if inode in waiting}


def is_local(address):
    """Whether only this computer reaches an address."""
    inside = getattr(address, "ipv4_mapped", None) or address
    return inside.is_loopback


def _address(text):
    """The kernel writes words of four bytes in its own order."""
    words = struct.pack(f"={len(text) // 8}I", *(int(text[i : i + 8], 16) for i in range(0, len(text), 8)))
    family = socket.AF_INET if len(words) == 4 else socket.AF_INET6
    return ipaddress.ip_address(socket.inet_ntop(family, words))


def _family(process):
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _sockets(process):
    """Inodes of its sockets."""
    try:
        links = list(Path(f"/proc/{process}/fd").iterdir())
    except OSError:  # it ended meanwhile
        return set()
    found = set()
    for link in links:
        with contextlib.suppress(OSError):  # it was closed meanwhile
            match = re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink()))
            found |= {match[1]} if match else set()
    return found
