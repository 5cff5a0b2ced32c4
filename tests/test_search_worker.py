"""What a worker makes of a job: the same as of each proposal alone, whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokens_made import make_data

from search.execution import worker
from search.execution.trunks import Trunks
from search.execution.worker import Job, Progress, Worker, together
from search.records import Proposal
from trainer.checkpoints.file import load_checkpoint
from trainer.cohorts.cohort import Cohort
from trainer.config import DataConfig, ModelConfig, RunConfig
from trainer.data import Prepared, here, prepare
from trainer.errors import UserError

MODEL = ModelConfig(depth=1, width=16, heads=2, context=16, vocabulary=64)
RUN = RunConfig(
    model=MODEL, data=DataConfig(val_tokens=256), tokens=64 * 40, batch=64, warmup=64 * 4, lr=3e-3,
    schedule="wsd", precision="fp32",
)  # fmt: skip
FOUR = tuple(Proposal(id=f"p{i}", run=replace(RUN, lr=lr), horizon=RUN.tokens, keep=True) for i, lr in
             enumerate((1e-3, 1e-2, 1e3, 3e-2)))  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return make_data(tmp_path_factory.mktemp("tokens"))


def work(proposals: tuple[Proposal, ...], data: Prepared, folder: Path | str) -> dict[str, Progress]:
    """The last progress of each; none changes after it has ended."""
    mine = Worker(Job(proposals=proposals, data=data, checkpoints=str(folder), threads=1))
    found: dict[str, Progress] = {}
    while not mine.ended:
        for name, progress in mine.advance(0.0).items():
            assert name not in found or not found[name].ended
            found[name] = progress
    torch.set_flush_denormal(False)  # a worker has a process of its own
    return found


def ending(progress: Progress) -> tuple[Any, ...]:
    return progress.status, progress.loss, progress.curve, progress.train_curve, progress.flops, progress.trunk


def test_a_pack_is_its_proposals_alone_and_is_continued(data: Prepared, tmp_path: Path) -> None:
    packed = work(FOUR, data, tmp_path)
    assert [packed[p.id].status for p in FOUR] == ["finished", "finished", "diverged", "finished"]
    assert {progress.pack for progress in packed.values()} == {4}
    for p in FOUR:
        assert ending(work((p,), data, tmp_path / "alone")[p.id]) == ending(packed[p.id])
    longer = replace(RUN, tokens=2 * RUN.tokens)
    further = tuple(
        replace(p, id=f"{p.id}-on", parent=p.id, start=packed[p.id].trunk or 0, keep=False, horizon=longer.tokens,
                run=replace(longer, lr=p.lr))
        for p in (FOUR[0], FOUR[3])
    )  # fmt: skip
    assert together(*further) and not together(FOUR[0], further[0])
    on = work(further, data, tmp_path)
    whole = work((replace(further[0], parent=None, start=0),), data, tmp_path)
    assert on["p0-on"].loss == pytest.approx(whole["p0-on"].loss, abs=1e-6)
    assert on["p0-on"].flops < whole["p0-on"].flops


def test_a_pack_too_large_for_the_memory_is_halved(
    data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    class Small(Cohort):
        def reports(self, *args: Any, **more: Any) -> Iterator[Any]:
            sizes.append(len(self.members))
            if len(self.members) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield from super().reports(*args, **more)

    want = work(FOUR, data, tmp_path)
    monkeypatch.setattr(worker, "Cohort", Small)
    found = work(FOUR, data, tmp_path)
    assert sizes == [4, 2, 2]
    assert [found[p.id].loss for p in FOUR] == [want[p.id].loss for p in FOUR]
    sizes.clear()
    monkeypatch.setattr(worker, "pack_size", lambda run, device, limit: min(limit, 3))  # what is known not to fit
    assert {p.status for p in work(FOUR[:2], data, tmp_path).values()} == {"finished"}
    work(FOUR, data, tmp_path)
    assert sizes == [2, 3, 1, 2, 1]


def test_an_error_ends_its_pack_and_a_users_error_the_search(
    data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: Exception) -> Any:
        def reports(*args: Any, **more: Any) -> Iterator[Any]:
            raise error
            yield

        return reports

    monkeypatch.setattr(Cohort, "reports", fail(ValueError("odd")))
    found = work(FOUR, data, tmp_path)
    assert {(p.status, p.error, p.fatal) for p in found.values()} == {("failed", "ValueError: odd", False)}
    monkeypatch.setattr(Cohort, "reports", fail(torch.OutOfMemoryError("none left")))
    found = work(FOUR, data, tmp_path)
    assert {p.error for p in found.values()} == {"OutOfMemoryError: none left"}
    monkeypatch.setattr(Cohort, "reports", fail(UserError("The disk is full.")))
    assert all(p.fatal for p in work(FOUR, data, tmp_path).values())


def test_together_means_one_shape_one_data_order_one_beginning() -> None:
    one = FOUR[0]
    assert together(one, FOUR[1]) and together(one, replace(one, run=replace(RUN, tokens=64 * 80, lr=1e-3)))
    for run in (replace(RUN, seed=1), replace(RUN, batch=128), RUN.shaped(2, 16, 2)):
        assert not together(one, replace(one, run=run))
    assert not together(one, replace(one, parent="x")) and not together(one, replace(one, start=64))


def test_trunks_in_a_store_serve_as_those_of_a_folder_do(data: Prepared, tmp_path: Path, bucket: str) -> None:
    address, proposal = bucket.format("trunks"), FOUR[0]
    for place in (str(tmp_path), address):
        work((proposal,), data, place)
    trunks = Trunks(address)
    trunk = trunks.found(proposal.id)
    assert load_checkpoint(trunk)[1] == load_checkpoint(tmp_path / trunk.name)[1] and trunk.parent != tmp_path
    longer = replace(RUN, tokens=2 * RUN.tokens, lr=proposal.run.lr)
    more = replace(proposal, id="more", run=longer, parent=proposal.id, start=1, keep=False, horizon=longer.tokens)
    found = [work((more,), data, place)["more"] for place in (str(tmp_path), address)]
    assert found[0].status == "finished" and ending(found[0]) == ending(found[1])
    trunks.delete(proposal.id)
    assert work((more,), data, address)["more"].orphan


def test_another_node_makes_its_own_copy_of_the_data(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{k} and {k * k % 97} are numbers. " for k in range(4000)))
    config = DataConfig(corpus=str(text), tokenizer="bpe:300", val_tokens=256)
    made = prepare(config)
    run = replace(RUN, data=config, model=replace(MODEL, vocabulary=300))
    assert here(made, run) is made
    gone = replace(made, train=(Path("/nowhere/train.bin"),))
    assert here(gone, run) == made
    with pytest.raises(UserError, match="training tokens on node"):
        here(replace(gone, train_tokens=7), run)
