"""Sizes and digests of what tests move."""

from __future__ import annotations

import hashlib
from pathlib import Path

KIB = 1 << 10
MIB = 1 << 20


def file_sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
