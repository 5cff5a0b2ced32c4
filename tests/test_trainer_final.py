"""The final run is not lost: interruptions, damaged checkpoints, object stores, several workers."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tokens_made import make_data

import trainer.cohorts.memory
import trainer.passes
from trainer.checkpoints.saver import Saver
from trainer.cohorts.calibrate import calibrate
from trainer.cohorts.cohort import Cohort
from trainer.config import DataConfig, ModelConfig, RunConfig, override
from trainer.data import Prepared
from trainer.errors import UserError
from trainer.final import Plan, Row, final
from trainer.loop import Training
from trainer.parallel import Parallel
from trainer.storage import Store

MODEL = ModelConfig(depth=2, width=32, heads=2, context=16, vocabulary=64)
RUN = RunConfig(
    model=MODEL, data=DataConfig(val_tokens=256), tokens=96 * 60, batch=96, warmup=96 * 4, lr=3e-3,
    schedule="cosine", precision="fp32", micro_batch=2,
)  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return make_data(tmp_path_factory.mktemp("tokens"))


def plan(store: object, **more: Any) -> Plan:
    return Plan(run=RUN, store=str(store), evaluations=6, save_seconds=0.0, **more)


def rows(made: Plan, data: Prepared, stop_at: int | None = None, **more: Any) -> list[Row]:
    """All rows; interrupted after `stop_at` steps where given."""
    found, trainings = [], list[Training]()
    for row in final(made, data, device=CPU, started=trainings.append, **more):
        found.append(row)
        if stop_at is not None and row["step"] >= stop_at:
            trainings[0].interrupted = "interrupted"
    return found


def validations(log: list[Row]) -> list[tuple[int, float]]:
    return [(r["step"], r["val_loss"]) for r in log if r["val_loss"] is not None]


def test_resumed_it_is_as_if_never_interrupted(data: Prepared, tmp_path: Path) -> None:
    whole = rows(plan(tmp_path / "whole"), data)[-1]
    first = rows(plan(tmp_path / "parts"), data, stop_at=20)[-1]
    assert (first["status"], first["reason"]) == ("stopped", "interrupted") and first["step"] < 30
    said: list[str] = []
    rest = rows(plan(tmp_path / "parts"), data, say=said.append)
    assert "going on from step" in said[0] and rest[0]["step"] > first["step"]
    last = rest[-1]
    assert last["val_loss"] == whole["val_loss"] and last["status"] == "finished"
    assert validations(last["log"]) == validations(whole["log"])
    assert last["seconds"] > first["seconds"]
    assert len(list((tmp_path / "parts" / "checkpoints").iterdir())) == 3  # the newest few are kept


def test_a_damaged_checkpoint_is_said_and_the_one_before_used(data: Prepared, tmp_path: Path) -> None:
    whole = rows(plan(tmp_path / "whole"), data)[-1]
    rows(plan(tmp_path / "run"), data, stop_at=40)
    newest, before = sorted((tmp_path / "run" / "checkpoints").iterdir(), reverse=True)[:2]
    content = bytearray(newest.read_bytes())
    content[-100] ^= 1  # one flipped bit
    newest.write_bytes(content)
    said: list[str] = []
    last = rows(plan(tmp_path / "run"), data, say=said.append)[-1]
    assert newest.name in said[0] and "checksum" in said[0] and before.name in said[1]
    assert last["val_loss"] == whole["val_loss"]


def test_a_torn_checkpoint_too(data: Prepared, tmp_path: Path) -> None:
    rows(plan(tmp_path), data, stop_at=30)
    newest = max((tmp_path / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    said: list[str] = []
    assert rows(plan(tmp_path), data, say=said.append)[-1]["status"] == "finished"
    assert "is damaged" in said[0]


def test_patience_hours_and_divergence_end_it(data: Prepared, tmp_path: Path) -> None:
    flat = replace(plan(tmp_path / "a", patience=2), run=replace(RUN, lr=1e-30))
    last = rows(flat, data)[-1]
    assert last["status"] == "stopped" and "2 validations brought no lower loss" in last["reason"]
    short = plan(tmp_path / "b", stop_seconds=1e-3)
    first = rows(short, data)[-1]
    assert first["status"] == "stopped" and first["step"] == 10 and Saver(Store(short.store)).newest(print)
    wild = replace(plan(tmp_path / "c"), run=replace(RUN, lr=1e-30, loss_cap=1.0, warmup=96 * 30))
    last = rows(wild, data)[-1]
    assert last["status"] == "diverged"
    kept = Saver(Store(wild.store)).newest(print)
    assert kept is not None and kept[1]["step"] < last["step"]


def test_another_run_is_refused_and_init_from_starts_where_told(data: Prepared, tmp_path: Path) -> None:
    seed = plan(tmp_path / "seed")
    rows(seed, data, stop_at=20)
    with pytest.raises(UserError, match="holds another run"):
        rows(replace(seed, run=replace(RUN, lr=1e-3)), data)
    newest = max((tmp_path / "seed" / "checkpoints").iterdir())
    step = int(newest.stem.split("-")[1])
    branch = rows(plan(tmp_path / "branch", init_from=str(newest), start_step=step), data)
    whole = rows(plan(tmp_path / "whole"), data)[-1]
    assert branch[-1]["val_loss"] == whole["val_loss"]  # weights, moments, schedule and data position came along
    fresh = rows(plan(tmp_path / "fresh", init_from=str(newest)), data)
    assert fresh[0]["step"] == 10 and fresh[-1]["val_loss"] != whole["val_loss"]
    with pytest.raises(UserError, match="lies beyond"):
        rows(plan(tmp_path / "late", start_step=60), data)
    with pytest.raises(UserError, match="no checkpoint"):
        rows(plan(tmp_path / "none", init_from=str(tmp_path / "nothing")), data)
    other = replace(plan(tmp_path / "other", init_from=str(newest)), run=RUN.shaped(2, 48, 2))
    with pytest.raises(UserError, match="is of another model"):
        rows(other, data)


def test_what_a_write_meets_is_raised(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    saver = Saver(Store(str(tmp_path)))
    saver.save(1, {"x": torch.zeros(2)}, {})
    with pytest.raises(UserError, match="cannot be written"):
        saver.wait()


def test_a_model_that_does_not_fit_says_what_would(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Prepared
) -> None:
    free = 16 * 60_000 / 3
    monkeypatch.setattr(trainer.cohorts.memory, "free_memory", lambda device: free)
    with pytest.raises(UserError, match=r"too few: shard it over \d+ devices"):
        rows(plan(tmp_path), data)
    monkeypatch.setattr(trainer.cohorts.memory, "free_memory", lambda device: 3e6)
    with pytest.raises(UserError, match=r"use --set micro_batch=\d+"):
        rows(replace(plan(tmp_path), run=replace(RUN, micro_batch=5000, batch=16 * 5000, tokens=16 * 50000)), data)


def test_where_memory_runs_out_passes_are_halved_and_it_is_kept(
    data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows(plan(tmp_path / "whole"), data)[-1]
    real, asked = Training._loss, []

    def small(self: Training, sequences: np.ndarray) -> torch.Tensor:
        asked.append(len(sequences))
        if torch.is_grad_enabled() and len(sequences) > 2:
            raise torch.OutOfMemoryError("no more")
        return real(self, sequences)

    monkeypatch.setattr(trainer.passes, "_LEARNT", {})
    monkeypatch.setattr(Training, "_loss", small)
    made = replace(plan(tmp_path / "run"), run=replace(RUN, micro_batch=None))
    first = rows(made, data, stop_at=20)[-1]
    assert asked[:2] == [6, 3] and first["status"] == "stopped"
    assert Store(made.store).read("memory.json") == b'{"micro_batch": 1}'  # 6, 3, 1
    monkeypatch.setattr(trainer.passes, "_LEARNT", {})  # another process
    asked.clear()
    last = rows(made, data)[-1]
    assert asked[0] == 1 and last["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-4)


def test_a_trial_and_a_calibration_take_passes_that_fit(data: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    run = replace(RUN, micro_batch=None)
    room = trainer.cohorts.memory.run_bytes(run, 3, CPU) / trainer.cohorts.memory.SPARE
    monkeypatch.setattr(trainer.cohorts.memory, "free_memory", lambda device: room)
    made = []
    monkeypatch.setattr(Training, "train_step", lambda self: made.append(self.micro_batch) or (torch.ones(()),) * 2)
    calibrate(run, data, CPU)
    Cohort([run, replace(run, lr=1e-3)], data, CPU).engine.train_step()
    assert set(made) == {3}


def test_a_stop_on_a_validation_keeps_it(data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Training.train_step

    def interrupted(self: Training) -> tuple[torch.Tensor, torch.Tensor]:
        self.interrupted = "interrupted" * (self.step == 19)  # validations are at 10, 20 ...
        return real(self)

    monkeypatch.setattr(Training, "train_step", interrupted)
    last = rows(plan(tmp_path / "run"), data)[-1]
    monkeypatch.setattr(Training, "train_step", real)
    assert (last["status"], last["step"]) == ("stopped", 20) and last["val_loss"] is not None
    found = rows(plan(tmp_path / "run"), data)[-1]
    whole = rows(plan(tmp_path / "whole"), data)[-1]
    assert validations(found["log"]) == validations(whole["log"])


# --- several workers ----------------------------------------------------------------------------------------------


UNEVEN = replace(RUN, batch=7 * 16, tokens=7 * 16 * 6, warmup=0, data=DataConfig(val_tokens=3 * 16))
"""Seven sequences a step, two a pass, and fewer held-out sequences than workers."""


MASKED = override(UNEVEN, ["family=bert", "model.vocabulary=65", "data.pack=documents"])
"""Workers' parts ask for different numbers of tokens."""


class Case(NamedTuple):
    kind: str
    size: int
    run: RunConfig
    folder: str = ""
    """Another's, to go on with its run."""
    stop: bool = False
    """After a few steps."""


# The largest first: who waits for its turn asks ever more seldom.
CASES = [Case("ddp", 5, UNEVEN), Case("fsdp", 5, UNEVEN), Case("fsdp", 4, UNEVEN), Case("ddp", 3, UNEVEN)]
CASES += [Case("fsdp", 3, UNEVEN), Case("fsdp", 2, RUN, "to 3", stop=True), Case("fsdp", 3, RUN, "to 3")]
CASES += [Case("ddp", 3, MASKED, "masked-ddp"), Case("fsdp", 2, MASKED, "masked-fsdp")]
CASES += [Case("fsdp", 2, RUN, "to 1", stop=True), Case("fsdp", 2, UNEVEN), Case("ddp", 2, RUN), Case("fsdp", 2, RUN)]


def shared_plan(folder: Path, case: Case) -> Plan:
    name = case.folder or f"{case.kind}-{case.size}-{case.run.batch}"
    made = plan(folder / name, shard=case.kind == "fsdp", stop_seconds=1e-3 if case.stop else math.inf)
    return replace(made, run=case.run)


def _worker(rank: int, ports: list[int], folder: Path, queue: Any) -> None:
    torch.set_num_threads(1)
    made = make_data(folder / f"data-{rank}")
    for case, port in zip(CASES, ports, strict=True):
        kind, size = case.kind, case.size
        if rank < size:
            store = torch.distributed.TCPStore("127.0.0.1", port, size, is_master=rank == 0)
            torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
            parallel = Parallel.current(kind)  # type: ignore[arg-type]
            found = list(final(shared_plan(folder, case), made, device=CPU, parallel=parallel))
            torch.distributed.destroy_process_group()
            if rank == 0:
                queue.put((case, found[-1]))


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[Case, Row]]]:
    """The last row of each case: the same five processes make them all, since starting one takes seconds."""
    folder = tmp_path_factory.mktemp("workers")
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in CASES]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_worker, args=(rank, ports, folder, queue), daemon=True) for rank in range(5)]
    for worker in workers:
        worker.start()
    found = dict(queue.get(timeout=180) for _ in CASES)
    yield folder, found
    for worker in workers:
        worker.join(30)
        worker.kill()


@pytest.mark.slow
@pytest.mark.timeout(480)  # five processes on a busy machine
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.kind}-{c.size}{'-uneven' * (c.run is UNEVEN)} {c.folder}")
def test_several_workers_agree_with_one(
    case: Case, together: tuple[Path, dict[Case, Row]], data: Prepared, tmp_path: Path
) -> None:
    """Also where nothing divides among them: there it hung before every worker made as many passes."""
    folder, found = together
    alone = rows(replace(plan(tmp_path), run=case.run), data)[-1]
    if case.stop and case.folder == "to 1":
        assert found[case]["status"] == "stopped" and found[case]["step"] == 10
        last = rows(replace(shared_plan(folder, case), stop_seconds=math.inf), data)[-1]
        assert last["status"] == "finished"
        np.testing.assert_allclose(losses_of(last["log"]), losses_of(alone["log"]), rtol=2e-4)
    if case.stop:
        return
    np.testing.assert_allclose(losses_of(found[case]["log"]), losses_of(alone["log"]), rtol=2e-4)
    # What several workers saved, one goes on from.
    made = shared_plan(folder, case)
    state = Saver(Store(made.store)).newest(print)
    assert state is not None and state[1]["step"] == case.run.steps
    assert rows(made, data)[-1]["val_loss"] == pytest.approx(found[case]["val_loss"], rel=1e-5)


def losses_of(log: list[Row]) -> np.ndarray:
    return np.array(
        [[r["train_loss"], r["grad_norm"], r["val_loss"]] for r in log if r["train_loss"] and r["val_loss"]]
    )


def test_every_worker_makes_as_many_passes() -> None:
    for sequences, size, most in itertools.product(range(1, 40), range(1, 7), range(1, 6)):
        passes = [Parallel(rank, size).passes(sequences, most) for rank in range(size)]
        assert len({len(mine) for mine in passes}) == 1
        assert max(len(part) for mine in passes for part in mine) <= most
        assert [i for mine in passes for part in mine for i in part] == list(range(sequences))


# --- an object store ----------------------------------------------------------------------------------------------


def test_an_object_store_serves_as_a_folder_does(bucket: str, data: Prepared, tmp_path: Path) -> None:
    made = plan(bucket.format("runs/mine"))
    rows(made, data, stop_at=30)
    last = rows(made, data)[-1]
    assert last["val_loss"] == rows(plan(tmp_path), data)[-1]["val_loss"]
    store = Store(made.store)
    assert store.names("checkpoints")[-1] == "checkpoints/step-00000060.safetensors"
    assert len(store.names("checkpoints")) == 3 and store.read("nothing") is None


def test_an_unreachable_store_is_one_sentence() -> None:
    with pytest.raises(UserError, match="The store s3://bucket/x cannot be used"):
        Store("s3://bucket/x?region=us-east-1&scheme=http&endpoint_override=127.0.0.1:9").names("checkpoints")
    with pytest.raises(UserError, match="cannot be used"):
        Store("nonsense://bucket/x").read("run.json")
