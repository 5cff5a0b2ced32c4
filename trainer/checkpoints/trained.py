"""A trained model, opened for use: evaluation, generation, export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tiktoken
import torch

from trainer.architecture.model import Transformer
from trainer.checkpoints.copies import here
from trainer.checkpoints.file import load_checkpoint, newest_first, step_of
from trainer.config import RunConfig, from_json
from trainer.data import Prepared
from trainer.data.tokenizer import load_tokenizer, with_mask
from trainer.devices import pick_device
from trainer.errors import UserError
from trainer.files import write_atomic


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model in evaluation mode, with all that is needed to speak with it."""

    run: RunConfig
    model: Transformer
    encoding: tiktoken.Encoding
    step: int
    path: Path
    """The checkpoint file."""

    @property
    def device(self) -> torch.device:
        return self.model.embedding.weight.device

    @property
    def end_of_text(self) -> int:
        return self.encoding.eot_token


def open_trained(place: Path | str, device: torch.device | None = None) -> Trained:
    """`place`: the directory of a run (its newest whole checkpoint is taken) or a checkpoint file in one; here, or the
    address of either in an object store."""
    tensors, state, file = _newest(here(place))
    step = step_of(state, file)
    run = from_json(RunConfig, state["run"], file)
    model = Transformer(run)
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if (saved := tensors.get(f"model.{name}")) is None or saved.shape != parameter.shape:
            raise UserError(f"{file} does not fit its own configuration: {name} is missing or of another shape.")
        if not saved.isfinite().all():
            raise UserError(f"{file} holds weights that are not finite: its training diverged; use another checkpoint.")
        parameter.data.copy_(saved)
    encoding = load_tokenizer(_tokenizer(file, run))
    return Trained(
        run=run,
        model=model.to(device or pick_device()).eval(),
        encoding=with_mask(encoding) if run.objective == "masked" else encoding,
        step=step,
        path=file,
    )


def keep_tokenizer(folder: Path, data: Prepared) -> None:
    """Put a trained tokenizer beside a run's checkpoints, so that the run can be used without its corpus."""
    if data.tokenizer.endswith(".json"):
        write_atomic(folder / "tokenizer.json", Path(data.tokenizer).read_bytes())


def _newest(path: Path) -> tuple[dict[str, torch.Tensor], dict, Path]:
    if path.is_file():
        return *load_checkpoint(path), path
    files = newest_first(path / "checkpoints")
    if not files:
        raise UserError(f"{path} holds no checkpoint: give the directory of a run of hpt.train, or a checkpoint file.")
    error = UserError("")
    for file in files:
        try:
            return *load_checkpoint(file), file
        except UserError as damaged:
            error = damaged
    raise error


def _tokenizer(file: Path, run: RunConfig) -> str:
    for folder in (file.parent, file.parent.parent):
        if (folder / "tokenizer.json").is_file():
            return str(folder / "tokenizer.json")
    if run.data.tokenizer.startswith("bpe:"):
        raise UserError(f"The tokenizer of {file} is missing: put the run's tokenizer.json beside the checkpoint.")
    return run.data.tokenizer
