"""Hashes of each document's shingles, straight from Arrow's bytes: no Python object a word.

A word is a run of letters, digits and _, lower-cased by Unicode's rules; beyond ASCII every character is taken as a
letter except U+0080 to U+00BF and the blocks of general and of Chinese, Japanese and Korean punctuation (curly quotes,
dashes, full stops). Texts are taken as they are encoded: no Unicode normal form is made.
"""
# pyarrow.compute's functions are made as it is imported, unseen by the checker.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.data.deduplication.settings import Settings

BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
INVERSE = pow(BASE, -1, 2**64)
SEGMENT = 2**20  # bytes: bounds the table of powers, whatever a document's length
WORD = np.zeros(256, bool)
WORD[[*b"0123456789_abcdefghijklmnopqrstuvwxyz", *range(0x80, 0x100)]] = True
BLANK = np.zeros(256, bool)
BLANK[[*b" \t\n\v\f\r"]] = True


@dataclass(frozen=True)
class Shingles:
    """The sets of n documents, one behind the other."""

    hashes: np.ndarray
    """uint64: document i's are hashes[offsets[i] : offsets[i + 1]], repeats included."""
    offsets: np.ndarray
    """int64 [n + 1]."""
    units: np.ndarray
    """int64 [n]: words (or characters) of each."""


def shingles(texts: pa.Array | pa.ChunkedArray, settings: Settings) -> Shingles:
    """A document of fewer units than a shingle has one shingle, of all it has; one without any has none."""
    array = pc.cast(pc.utf8_lower(texts), pa.large_string())
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    raw, bounds = _buffers(array)
    starts, ends = _units(raw, bounds, settings.unit)
    first = np.searchsorted(starts, bounds)  # of each document, its first unit
    units = np.diff(first)
    hashes = _hashes(raw, starts, ends)
    sizes = np.where(units > 0, np.maximum(units - settings.shingle + 1, 1), 0)
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - first[:-1], sizes)  # first unit of each shingle
    last = np.repeat(first[1:], sizes)
    made = np.zeros(len(places), np.uint64)
    if not len(places):
        return Shingles(made, offsets, units)
    short = bool((units < settings.shingle).any())
    for step in range(settings.shingle):
        unit = places + step
        value = hashes[np.minimum(unit, len(hashes) - 1)]
        made = made * np.uint64(BASE) + (np.where(unit < last, value, np.uint64(step)) if short else value)
    return Shingles(mixed(made), offsets, units)


def _buffers(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of all texts, and where each begins and the last ends (int64 [n + 1], from 0)."""
    if array.null_count:
        array = pc.fill_null(array, "")
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    raw = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return raw[bounds[0] : bounds[-1]], bounds - bounds[0]


def _units(raw: np.ndarray, bounds: np.ndarray, unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Where each word or character begins and ends; none crosses from one document to the next."""
    if unit == "characters":
        starts = np.flatnonzero((raw & 0xC0) != 0x80)
        ends = np.append(starts[1:], len(raw))
        inked = ~BLANK[raw[starts]]
        return starts[inked], ends[inked]
    inside = WORD[raw]
    _punctuation(raw, inside)
    # A word that ends where a document does would run on into the next one: cut at every bound.
    change = np.empty(len(raw) + 1, bool)
    change[0], change[-1] = len(raw) > 0 and inside[0], len(raw) > 0 and inside[-1]
    np.not_equal(inside[1:], inside[:-1], out=change[1:-1])
    edges = np.flatnonzero(change)
    starts, ends = edges[::2], edges[1::2]
    cuts = bounds[1:-1]
    cuts = np.unique(cuts[(cuts > 0) & (cuts < len(raw))])
    cuts = cuts[inside[cuts] & inside[cuts - 1]] if len(cuts) else cuts
    if len(cuts):
        starts, ends = np.sort(np.append(starts, cuts)), np.sort(np.append(ends, cuts))
    return starts, ends


def _punctuation(raw: np.ndarray, inside: np.ndarray) -> None:
    """Takes the punctuation beyond ASCII out of `inside`."""
    at = np.flatnonzero(raw >= 0xC2)
    if not len(at):
        return
    lead, second = raw[at], raw[np.minimum(at + 1, len(raw) - 1)]
    two = at[lead == 0xC2]
    three = at[((lead == 0xE2) & (second <= 0x81)) | ((lead == 0xE3) & (second == 0x80))]
    for places, width in ((two, 2), (three, 3)):
        for step in range(width):
            inside[np.minimum(places + step, len(raw) - 1)] = False


def _hashes(raw: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """A polynomial of each unit's bytes modulo 2^64, from differences of one running sum a segment."""
    made = np.empty(len(starts), np.uint64)
    first = 0
    while first < len(starts):
        base = starts[first]
        last = int(np.searchsorted(starts, base + SEGMENT))
        stop = min(int(ends[last - 1]), base + 2 * SEGMENT)  # of a word beyond all measure the head is hashed
        sums = np.empty(stop - base + 1, np.uint64)
        sums[0] = 0
        np.cumsum((raw[base:stop].astype(np.uint64) + np.uint64(1)) * _powers(BASE)[: stop - base], out=sums[1:])
        at, end = starts[first:last] - base, np.minimum(ends[first:last], stop) - base
        made[first:last] = mixed((sums[end] - sums[at]) * _powers(INVERSE)[at])
        first = last
    return made


@cache
def _powers(base: int) -> np.ndarray:
    factors = np.full(2 * SEGMENT, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


def mixed(values: np.ndarray) -> np.ndarray:
    """Each uint64 spread over all 64 bits (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
