"""Where prepared data, corpora and evaluation files are kept."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

REPORTS = "_hpt"
"""In a folder of texts or shards that hpt wrote: what was removed, reports, work in progress."""


def cache_dir() -> Path:
    """HPT_CACHE_DIR, else the user's cache directory."""
    return Path(os.environ.get("HPT_CACHE_DIR") or platformdirs.user_cache_dir("hpt"))


def corpus_folder(name: str) -> Path:
    """Where a public corpus is kept."""
    return cache_dir() / "corpora" / name
