"""Limits of what a call may carry, each with its reason, and the checks that name them."""

from __future__ import annotations

import re

from larimar.errors import InvalidArgument

MAX_TEXT_BYTES = 16 * 1024
"""A prompt, answer or rephrasing: far above what the encoder's token limit admits, and cheap
to refuse before anything is computed."""
MAX_REPHRASINGS = 16
"""Rephrasings of one fact: each costs an encoder and a scope pass."""
MAX_ID_BYTES = 256
"""A fact id or event id: it is a key in the store, and stays for good."""
MAX_MERGE_ID_BYTES = MAX_ID_BYTES - 21
"""A merge id: a colon and a number of 64 bits still follow it in an event id."""
MAX_CANDIDATES = 64
"""Candidates of one scoring call."""
MAX_APPEND_ITEMS = 256
"""Events of one append: one script call of a few milliseconds in the store."""
MAX_EDIT_TEXTS = 512
"""Prompts and rephrasings of one append: with their vectors they fit one message."""
MAX_ERASE_FACTS = 256
"""Facts of one erasure: its receipt names the digest of each."""
MAX_PAGE = 1000
"""Facts, events or changes of one page."""
MAX_LOAD_BYTES = 4 * 2**20
"""Records of an archive in one message between services: half of what a message may hold."""

BANK_NAME = r"[a-z0-9][a-z0-9_.-]{0,62}"
"""What a bank may be called, as a regular expression."""


def check_bank_name(name: str) -> str:
    """The name. Raises: InvalidArgument, when it is no bank name."""
    if not re.fullmatch(BANK_NAME, name):
        raise InvalidArgument(
            f"{name[:80]!r} is no bank name: use 1 to 63 of a-z 0-9 . _ -, a letter or digit first",
            "BAD_BANK_NAME",
        )
    return name


def check_version(name: str, version: int) -> int:
    """The version. Raises: InvalidArgument, when it is negative."""
    if version < 0:
        raise InvalidArgument(f"{name} is {version}: versions count from 1", "BAD_VERSION")
    return version


def check_text(name: str, text: str) -> str:
    """The text. Raises: InvalidArgument, when it is blank or too long."""
    if not text.strip():
        raise InvalidArgument(f"the {name} is empty: give it a text", "EMPTY_TEXT")
    size = len(text.encode())
    if size > MAX_TEXT_BYTES:
        raise InvalidArgument(
            f"the {name} has {size} bytes, the limit is {MAX_TEXT_BYTES}: shorten it",
            "TEXT_TOO_LONG",
        )
    return text


def check_id(name: str, value: str) -> str:
    """The id. Raises: InvalidArgument, when it is too long or has control characters."""
    if len(value.encode()) > MAX_ID_BYTES:
        raise InvalidArgument(
            f"the {name} has {len(value.encode())} bytes, the limit is {MAX_ID_BYTES}",
            "ID_TOO_LONG",
        )
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise InvalidArgument(f"the {name} has control characters: leave them out", "BAD_ID")
    return value
