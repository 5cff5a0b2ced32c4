"""`hpt.data dedup`: near-duplicates and whatever filters do not want, out of a corpus."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq
import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from hpt.console import cli
from hpt.console.tables import Fitting
from hpt.corpora.bars import sized, steps
from hpt.reports.numbers import duration
from trainer.config import DataConfig
from trainer.data.cleaning import Job, clean
from trainer.data.cleaning.local import Cleaned
from trainer.data.cleaning.plan import SMALL, Plan, plan
from trainer.data.cleaning.report import write_table
from trainer.data.corpus import Reading, corpus_files
from trainer.data.deduplication import LIKE, Settings
from trainer.data.processes import cores
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Dedup(cli.Common):
    """Write a corpus without its near-duplicates, and without what filters do not want. Interrupted, it goes on file by
    file when the same command is given again. Look at OUT/_hpt/report.md afterwards."""

    corpus: tyro.conf.Positional[str]
    """As --corpus of hpt.search: a file, folder or glob of texts."""
    out: Path
    """Folder for the cleaned files, each in its format and under its name."""
    like: Literal["hpt", "fineweb", "nemo"] = "hpt"
    """Whose settings: 20 bands of 6 rows with a check; FineWeb's 14 of 8, or NeMo Curator's 20 of 13 (24 characters),
    both without. The next flags change single ones."""
    threshold: float | None = None
    """Jaccard similarity from which two documents are near-duplicates; default: 0.7."""
    shingle: int | None = None
    """Words (or characters) in a row that are compared; default: 5."""
    unit: Literal["words", "characters"] | None = None
    """Characters for languages that write without spaces."""
    bands: int | None = None
    """More find more candidates."""
    rows: int | None = None
    """More find fewer candidates."""
    keep: Literal["first", "longest"] = "first"
    """Which document of a cluster stays."""
    exact: bool = False
    """Only documents with the same words in the same order."""
    duplicates: bool = True
    """--no-duplicates: filters alone."""
    filter: tuple[str, ...] = ()
    """gopher, repetition, fineweb, c4."""
    min_words: int = 0
    """Documents of fewer words go."""
    language: tuple[str, ...] = ()
    """Keep these languages alone, as en (needs py3langid)."""
    pattern: str = ""
    """Documents in which this regular expression is found go."""
    against: tuple[Path, ...] = ()
    """Evaluation files: documents that hold a run of --against-words words of theirs go."""
    against_words: int = 13
    text_field: str = "text"
    """Field of .jsonl and column of .parquet that holds a document."""
    id_field: str = "id"
    """Field or column that names a document; told beside file and row."""
    skip_damaged: bool = False
    """Count rows and files that cannot be read, and go on."""
    removed: Path | None = None
    """Write the list of what was removed here as well, as x.snappy.parquet."""
    kept: Path | None = None
    """Likewise, what is kept: file and row."""
    processes: int | None = None
    """Default: one a core."""
    distributed: bool = False
    """Through Ray Data, on the cluster in RAY_ADDRESS or here; every node must see the corpus and --out. The default
    above a million documents where RAY_ADDRESS is set."""
    nodes: int = 1
    """Machines that the plan counts with."""
    usd_per_hour: float | None = None
    """Of one machine."""
    dry_run: bool = False
    """Say what it would take, and stop."""

    def settings(self) -> Settings:
        given = {name: getattr(self, name) for name in ("threshold", "shingle", "unit", "bands", "rows")}
        chosen = {name: value for name, value in given.items() if value is not None}
        return replace(LIKE[self.like], keep=self.keep, exact=self.exact, **chosen)

    def job(self) -> Job:
        if self.processes is not None and self.processes < 1 or self.nodes < 1:
            raise UserError("--processes and --nodes must be at least 1.")
        files = corpus_files(DataConfig(corpus=self.corpus))
        if any(path.suffix == ".bin" for path in files):
            raise UserError(f"{self.corpus!r} holds token shards: near-duplicates are looked for in texts.")
        if missing := [path for path in self.against if not path.is_file()]:
            raise UserError(f"--against {missing[0]}: there is no such file.")
        return Job(
            files=tuple(files), out=self.out, settings=self.settings(),
            reading=Reading(self.text_field, self.skip_damaged), id_field=self.id_field, filters=self.filter,
            min_words=self.min_words, languages=self.language, pattern=self.pattern, against=self.against,
            against_words=self.against_words, duplicates=self.duplicates,
        )  # fmt: skip


def run(config: Dedup, console: Console) -> int:
    job, processes = config.job(), config.processes or cores()
    job.build_filters()
    for path in (config.removed, config.kept):
        if path is not None and path.suffix != ".parquet":
            raise UserError(f"{path} must end in .parquet (or .snappy.parquet, .zstd.parquet ...).")
    planned = plan(job, cores=processes, nodes=config.nodes, usd_per_hour=config.usd_per_hour)
    distributed = config.distributed or planned.documents > SMALL and bool(os.environ.get("RAY_ADDRESS"))
    _say(planned, config, distributed, console)
    if config.dry_run:
        config.answer(vars(planned), f"{planned.documents:,} documents, {planned.hours:.2f} hours")
        return 0
    with steps(console) as progress:
        if distributed:
            from trainer.data.cleaning.distributed import clean_distributed

            found = clean_distributed(job, processes, progress)
        else:
            found = clean(job, processes, progress)
    for name, path in (("removed", config.removed), ("kept", config.kept)):
        if path is not None:
            write_table(pq.read_table(job.reports / f"{name}.parquet"), path)
    console.print(Fitting(table(found)))
    console.print(
        f"report   {job.reports / 'report.md'}\nnext     python -m hpt.data tokenise {config.out} --out shards"
    )
    result = {**vars(found), "out": config.out, "removed": config.removed or job.reports / "removed.parquet"}
    config.answer(result, f"{found.kept:,} of {found.rows:,} documents kept")
    return 0


def table(found: Cleaned) -> Table:
    made = Table(box=SIMPLE)
    made.add_column("")
    made.add_column("documents", justify="right")
    made.add_column("", justify="right")
    for name, count in [("read", found.rows), *found.reasons.most_common(), ("kept", found.kept)]:
        made.add_row(name, f"{count:,}", f"{count / max(1, found.rows):.1%}")
    return made


def _say(planned: Plan, config: Dedup, distributed: bool, console: Console) -> None:
    size, memory, disk = map(sized, (planned.bytes, planned.memory, planned.disk))
    money = "" if planned.usd is None else f", {planned.usd:,.2f} dollars"
    at = f"{config.processes or cores()} processes" + (f" on each of {config.nodes} nodes" if config.nodes > 1 else "")
    console.print(
        f"plan     about {planned.documents:,} documents, {size} of text: "
        f"{duration(3600 * planned.hours)} in {at}{money}; "
        f"{memory} of memory, {disk} of disk while it runs" + (
            f", {sized(planned.shuffled)} between nodes" if distributed else ""
        )
    )  # fmt: skip
    if planned.documents > SMALL and not distributed:
        console.print(f"hint     above {SMALL:,} documents --distributed uses all nodes of a Ray cluster")
