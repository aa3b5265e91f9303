"""What is heard of a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Event:
    """One event of a job."""

    id: int | None
    name: str
    data: dict[str, Any]
