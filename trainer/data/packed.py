"""Rows of examples packed whole, for fine-tuning: what is in their folder, and batches of them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.batches import Batches, permuted
from trainer.errors import UserError
from trainer.files import read_json, write_atomic

PARTS = ("tokens", "targets", "documents")


def write_packed(folder: Path, train: np.ndarray, val: np.ndarray, about: dict[str, Any], tokenizer: str) -> None:
    """train and val [n, 3, T]: tokens, targets (NOTHING where none is asked for), numbers of the examples in a row.
    `about` has vocabulary, tokenizer, end_of_text, and whatever else is worth knowing under "made"."""
    for name, rows in (("train", train), ("val", val)):
        buffer = io.BytesIO()
        np.save(buffer, rows.astype(np.int32))
        write_atomic(folder / f"{name}.npy", buffer.getvalue())
    if tokenizer:
        write_atomic(folder / "tokenizer.json", tokenizer.encode())
    sizes = {"train_tokens": train.shape[0] * train.shape[2], "val_tokens": val.shape[0] * val.shape[2]}
    write_atomic(folder / "packed.json", json.dumps({**about, **sizes}, indent=2).encode())  # last: it is whole now


def read_packed(corpus: str) -> dict[str, Any]:
    """The fields of a Prepared."""
    folder = Path(corpus)
    values = read_json(
        folder / "packed.json",
        f"There are no packed rows in {folder}: make them again with hpt.finetune, whose --out remembers its tasks.",
    )
    values.pop("made", None)
    if values["tokenizer"] == "tokenizer.json":
        values["tokenizer"] = str(folder / "tokenizer.json")
    return {
        **values, "train": (folder / "train.npy",), "val": (folder / "val.npy",), "bytes_per_token": float("nan"),
    }  # fmt: skip


class RowBatches(Batches):
    """An endless stream of packed rows, shuffled anew each epoch; seed None: in order, then from the first again."""

    def __init__(self, files: Sequence[Path], context: int, seed: int | None) -> None:
        self.context, self.seed = context, seed
        try:
            self.packed = np.load(files[0], mmap_mode="r")
        except (OSError, ValueError) as error:
            raise UserError(f"{files[0]} cannot be read ({error}): delete its folder and fine-tune again.") from None
        self.windows = len(self.packed)
        if not self.windows or self.packed.shape[2] != context:
            width = self.packed.shape[2]
            raise UserError(f"{files[0]} holds {self.windows} rows of {width} tokens: the context is {context}.")

    def rows(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows first ... first + count - 1 of the stream: tokens, targets and documents, int64 [count, T] each."""
        found = np.empty((count, 3, self.context), np.int64)
        for line in range(count):
            epoch, index = divmod(first + line, self.windows)
            if self.seed is not None:
                index = permuted(index, self.windows, (self.seed, epoch))
            found[line] = self.packed[index]
        return found[:, 0], found[:, 1], found[:, 2]

    def sequences(self, first: int, count: int) -> np.ndarray:
        """[count, context + 1], for those who look at tokens alone; the last is a repetition."""
        tokens = self.rows(first, count)[0]
        return np.concatenate([tokens, tokens[:, -1:]], axis=1)
