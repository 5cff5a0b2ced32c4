"""Cleaning files: what is written, in every format; cut off and begun again; damage; filters; contamination; Ray."""

from __future__ import annotations

import errno
import gzip
import json
import lzma
import os
import random
import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from hpt.benches.planted import edited
from trainer.config import DataConfig
from trainer.data.cleaning import Job, clean
from trainer.data.cleaning import sign as signing
from trainer.data.cleaning.plan import plan
from trainer.data.cleaning.score import score
from trainer.data.corpus import Reading, corpus_files, rows
from trainer.data.deduplication import Settings
from trainer.data.filters import FILTERS, named, reason
from trainer.data.filters.length import at_least
from trainer.data.filters.pattern import without
from trainer.errors import UserError

WORDS = [f"{a}{b}" for a in "bcdfghjklm" for b in ("an", "et", "irn", "ow", "ult")]
PROSE = "The cat sat on the mat and looked at the dog. It was a fine day to be with friends, that all have said. "


def story(seed: int, size: int = 120) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=size))


def near(text: str, seed: int) -> str:
    return edited(text, 0.01, random.Random(seed), WORDS)


TEXTS = [story(i) for i in range(12)]
ROWS = [*TEXTS, near(TEXTS[3], 1), "", near(TEXTS[3], 2), near(TEXTS[7], 3), "   ", TEXTS[0]]
GONE = {12: 3, 14: 3, 15: 7, 17: 0}


def write_corpus(folder: Path, ending: str, texts: list[str] = ROWS) -> Path:
    path = folder / f"texts{ending}"
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"id": f"d{i}", "n": i, "text": t}) + "\n" for i, t in enumerate(texts)).encode()
    packed = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
    if ending == ".parquet":
        table = pa.table({"id": [f"d{i}" for i in range(len(texts))], "n": range(len(texts)), "text": texts})
        pq.write_table(table, path, row_group_size=5, compression="gzip")
    elif ending == ".txt":
        path.write_text("\n<|endoftext|>\n".join(texts))
    else:
        path.write_bytes(packed.get(path.suffix, bytes)(lines))
    return path


def unpacked_zst(content: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(content)


def job_of(path: Path, out: Path, **settings: object) -> Job:
    return Job(files=tuple(corpus_files(DataConfig(corpus=str(path)))), out=out, **settings)  # type: ignore[arg-type]


def removed(out: Path) -> dict[tuple[str, int], tuple[str, int]]:
    table = pq.read_table(out / "_hpt" / "removed.parquet").to_pylist()
    return {(r["file"], r["row"]): (r["kept_file"], r["kept_row"]) for r in table if r["reason"] == "duplicate"}


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.xz", ".jsonl.zst", ".parquet", ".txt"])
def test_every_format_comes_out_as_it_went_in(tmp_path: Path, ending: str) -> None:
    path, out = write_corpus(tmp_path / "in", ending), tmp_path / "out"
    found = clean(job_of(path, out), 1)
    assert {a[1]: b[1] for a, b in removed(out).items()} == GONE
    assert (found.rows, found.kept, found.reasons) == (18, 12, {"duplicate": 4, "empty": 2})
    kept = [i for i, text in enumerate(ROWS) if text.strip() and i not in GONE]
    texts = [t.rstrip("\n") for t in rows(out / path.name, Reading()) if t]
    assert texts == [ROWS[i] for i in kept]
    assert pq.read_table(out / "_hpt" / "kept.parquet")["row"].to_pylist() == kept
    if ending == ".parquet":
        written = pq.read_table(out / path.name)
        assert written.column_names == ["id", "n", "text"] and written["n"].to_pylist() == kept
        assert pq.read_metadata(out / path.name).row_group(0).column(0).compression == "GZIP"
    if "json" in ending:
        reference = write_corpus(tmp_path / "again", ".jsonl").read_bytes().splitlines(keepends=True)
        unpack = {".gz": gzip.decompress, ".xz": lzma.decompress, ".zst": unpacked_zst}
        held = unpack.get(path.suffix, bytes)((out / path.name).read_bytes())
        assert held == b"".join(reference[i] for i in kept)  # whole lines, all their fields
    if ending != ".txt":
        ids = pq.read_table(out / "_hpt" / "removed.parquet").select(["id", "kept_id"]).to_pylist()
        assert ids[0] == {"id": "d12", "kept_id": "d3"}
    assert corpus_files(DataConfig(corpus=str(out))) == [out / path.name]  # reports are not texts
    page = (out / "_hpt" / "report.md").read_text()
    assert "| duplicate | 4 | 22.2% |" in page and ROWS[12][:100] in page and ROWS[3][:100] in page


def many(folder: Path) -> Path:
    for i in range(6):
        texts = [story(100 * i + j) for j in range(20)] + [near(story(100 * ((i + 1) % 6) + 5), i)]
        write_corpus(folder / f"part{i % 2}", f"{i}.jsonl", texts)
    return folder


def everything(out: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in out.rglob("*") if p.is_file() and "work" not in p.parts and p.name != "report.json"
    }  # fmt: skip


def test_killed_anywhere_it_goes_on_to_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end after each file that is put in its place, once: as kill -9 would."""
    corpus = many(tmp_path / "in")
    clean(job_of(corpus, tmp_path / "whole"), 1)
    job, cut = job_of(corpus, tmp_path / "cut"), 0
    real, left = os.replace, [0]

    def replaced(source: object, target: object) -> None:
        real(source, target)  # type: ignore[arg-type]
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replaced)
    for steps in (1, 3, 4, 6, 5, 1, 2, 3, 5):
        left[0] = steps
        try:
            clean(job, 1)
            break
        except KeyboardInterrupt:
            cut += 1
    left[0] = -1
    clean(job, 1)
    assert cut > 5 and everything(tmp_path / "cut") == everything(tmp_path / "whole")


def test_a_finished_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(many(tmp_path / "in"), tmp_path / "out")
    clean(job, 1)
    before = everything(tmp_path / "out")
    monkeypatch.setattr(signing, "rows", lambda *_: pytest.fail("read again"))
    clean(job, 1)
    assert everything(tmp_path / "out") == before


def test_processes_change_nothing(tmp_path: Path) -> None:
    corpus = many(tmp_path / "in")
    clean(job_of(corpus, tmp_path / "one"), 1)
    clean(job_of(corpus, tmp_path / "two"), 2)
    assert everything(tmp_path / "one") == everything(tmp_path / "two") and len(removed(tmp_path / "one")) == 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data's own, of its own settings
def test_ray_finds_the_same_clusters(tmp_path: Path) -> None:
    from trainer.data.cleaning.distributed import clean_distributed

    corpus = many(tmp_path / "in")
    clean(job_of(corpus, tmp_path / "one"), 1)
    clean_distributed(job_of(corpus, tmp_path / "ray"), 2, partitions=3)
    one, others = everything(tmp_path / "one"), everything(tmp_path / "ray")
    # Ray's partitions may each find a pair that several bands agree on: it is checked more than once.
    alike = [
        {name: re.sub(rb'\d+ candidates|"candidates": \d+', b"", content) for name, content in files.items()}
        for files in (one, others)
    ]
    assert alike[0] == alike[1] and len(removed(tmp_path / "one")) == 6


def test_what_else_lies_in_the_way_is_left_alone(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "in", ".jsonl")
    out = tmp_path / "out"
    clean(job_of(path, out), 1)
    with pytest.raises(UserError, match="other files or with other settings"):
        clean(job_of(path, out, settings=Settings(threshold=0.9)), 1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="is not empty and was not made by this command"):
        clean(job_of(path, tmp_path / "mine"), 1)
    with pytest.raises(UserError, match="lies in --out"):
        clean(job_of(path, tmp_path / "in"), 1)


def test_the_longest_may_be_kept(tmp_path: Path) -> None:
    texts = [TEXTS[0], TEXTS[0] + " " + TEXTS[0][:40], story(99)]
    job = job_of(write_corpus(tmp_path / "in", ".jsonl", texts), tmp_path / "out", settings=Settings(keep="longest"))
    clean(job, 1)
    assert {a[1]: b[1] for a, b in removed(tmp_path / "out").items()} == {0: 1}


# --- damage -----------------------------------------------------------------------------------------------------


def damaged(folder: Path, kind: str) -> Path:
    folder.mkdir()
    write_corpus(folder, "_a.jsonl", [story(i) for i in range(50, 60)])
    path = folder / f"bad{'.jsonl.gz' if kind == 'half' else '.parquet' if 'parquet' in kind else '.jsonl'}"
    line = json.dumps({"text": story(1)}).encode() + b"\n"
    content = {
        "binary": line + bytes(range(11, 256)) + b"\n" + line,
        "latin-1": line + '{"text": "naïve"}\n'.encode("latin-1") + line,
        "no field": line + b'{"body": "x"}\n' + line,
        "half": gzip.compress(b"".join(json.dumps({"text": story(1000 + i)}).encode() + b"\n" for i in range(400)))[
            :-9000
        ],
        "half a parquet": b"PAR1 and no more",
    }
    if kind == "other parquet":
        pq.write_table(pa.table({"body": ["x"]}), path)
    elif kind == "numbers in parquet":
        pq.write_table(pa.table({"text": [[1.5]]}), path)
    else:
        path.write_bytes(content[kind])
    return folder


@pytest.mark.parametrize(
    ("kind", "words", "lost"),
    [
        ("binary", "bad.jsonl, line 2 is not", 1),
        ("latin-1", "bad.jsonl, line 2 is not UTF-8", 1),
        ("no field", "line 2 has no field 'text' but body: name the right one", 1),
        ("half", "bad.jsonl.gz cannot be read", 1),
        ("half a parquet", "bad.parquet is not a whole parquet file", 1),
        ("other parquet", "bad.parquet has no column 'text' but body", 1),
        ("numbers in parquet", "the column 'text' holds list", 1),
    ],
)
def test_damage_is_named_or_counted(tmp_path: Path, kind: str, words: str, lost: int) -> None:
    folder = damaged(tmp_path / "in", kind)
    with pytest.raises(UserError) as error:
        clean(job_of(folder, tmp_path / "out"), 1)
    assert words in str(error.value) and "\n" not in str(error.value)
    found = clean(job_of(folder, tmp_path / "counted", reading=Reading(skip_damaged=True)), 1)
    assert found.reasons["damaged"] == lost and found.kept >= 10
    assert len([t for t in rows(tmp_path / "counted" / "texts_a.jsonl", Reading()) if t]) == 10


def test_a_full_disk_is_a_sentence_and_leaves_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_corpus(tmp_path / "in", ".jsonl")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(signing.os, "fsync", full)
        with pytest.raises(UserError, match="is full"):
            clean(job_of(path, tmp_path / "full"), 1)
    assert not (tmp_path / "full" / "texts.jsonl").exists()
    assert path.read_bytes() == write_corpus(tmp_path / "again", ".jsonl").read_bytes()


def test_text_that_is_not_utf8_in_parquet(tmp_path: Path) -> None:
    column = pa.array([b"good text", b"\xff\xfe bad"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="a.parquet holds text that is not UTF-8"):
        clean(job_of(tmp_path / "a.parquet", tmp_path / "out"), 1)


def test_nothing_but_empty_documents(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": pa.array([""] * 200_000)}), path)
    with pytest.raises(UserError, match="no text: all its 200,000 rows are empty"):
        clean(job_of(path, tmp_path / "out"), 1)


def test_a_long_document(tmp_path: Path) -> None:
    long = story(5, 400_000)  # 2 MB
    path = write_corpus(tmp_path / "in", ".jsonl", [long, story(6), near(long, 1)])
    assert clean(job_of(path, tmp_path / "out"), 1).reasons == {"duplicate": 1}


# --- filters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("gopher", "Too short.", "under 50 words"),
        ("gopher", "ab " * 60, "mean length"),
        ("gopher", "#tag words here again " * 20, "# or ellipsis"),
        ("gopher", "- the point of it\n" * 20, "bullets"),
        ("gopher", "and that is how it went with the others…\n" * 2 + "the end " * 40, "ellipsis"),
        ("gopher", "1234 5678 the word " * 20, "have a letter"),
        ("gopher", "une phrase sans aucun mot anglais dedans voila " * 10, "commonest words"),
        ("repetition", "the same line here\n" * 10, "repeated lines"),
        ("repetition", "spam and eggs again " * 30, "commonest 2 words"),
        ("repetition", " ".join(map(str, range(100))) + " " + " ".join(map(str, range(60))), "runs of 5 words"),
        ("fineweb", "a line without an end\n" * 10, "end in punctuation"),
        ("fineweb", "Short.\n" * 10, "30 characters or fewer"),
        ("fineweb", "The very same sentence is here, word for word, again.\n" * 3, "repeated lines"),
        ("c4", PROSE * 5 + "lorem ipsum", "lorem ipsum"),
        ("c4", PROSE * 5 + "if (x) {", "curly"),
        ("c4", "Please enable javascript.\n" * 9, "fewer than 5 sentences"),
    ],
)
def test_filters_say_why(name: str, text: str, why: str) -> None:
    assert why in FILTERS[name](text)
    assert reason(text, named([name])).startswith(f"{name}: ")


def test_good_prose_passes_all() -> None:
    text = (
        "The ferry leaves the island at six, when the cafe by the quay is still shut and gulls sit on its roof.\n"
        "On board there is room for eleven cars, a post van and as many people as care to stand in the wind.\n"
        "Most of them work in the town across the sound; some have done so for thirty years and know each buoy.\n"
        "In winter the crossing takes longer, because ice drifts down from the river mouth and must be gone around.\n"
        "Nobody minds much. They play cards, or sleep, and at the far side walk up to the market with cold hands.\n"
        "A bridge was planned once. It would have cost more than all houses on the island, so it was forgotten.\n"
    )
    assert {name: judge(text) for name, judge in FILTERS.items()} == dict.fromkeys(FILTERS, "")


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("text", ["", " ", "\n", "x", "\u2028", "。" * 100, "word " * 50])
def test_filters_bear_anything(name: str, text: str) -> None:
    assert isinstance(FILTERS[name](text), str)


def test_filters_in_the_pipeline_are_counted_and_shown(tmp_path: Path) -> None:
    texts = [*TEXTS, "too short", "secret: xyz " + story(50)]
    job = job_of(write_corpus(tmp_path / "in", ".jsonl", texts), tmp_path / "out", min_words=5, pattern="secret")
    found = clean(job, 1)
    assert found.reasons == {"length": 1, "pattern": 1} and found.kept == 12
    shown = {e["row"]: e["reason"] for e in found.examples}
    assert shown == {12: "length: under 5 words", 13: "pattern: matches 'secret'"}
    table = pq.read_table(tmp_path / "out" / "_hpt" / "removed.parquet").to_pylist()
    assert [(r["row"], r["reason"], r["kept_row"]) for r in table] == [
        (12, "length: under 5 words", None), (13, "pattern: matches 'secret'", None),
    ]  # fmt: skip
    assert at_least(2)("a") and not at_least(2)("a b") and not without("z")("abc")
    with pytest.raises(UserError, match="did you mean gopher"):
        named(["gophr"])
    with pytest.raises(UserError, match="not a regular expression"):
        without("(")


def test_languages_by_py3langid() -> None:
    pytest.importorskip("py3langid")
    from trainer.data.filters.language import only

    judge = only(("en",))
    assert judge(PROSE) == "" and judge("Der Hund läuft über die Straße und freut sich sehr.") == "language de"
    with pytest.raises(UserError, match="py3langid knows"):
        only(("english",))


# --- contamination ----------------------------------------------------------------------------------------------


def test_documents_that_hold_evaluation_rows_go(tmp_path: Path) -> None:
    question = " ".join(f"q{i}" for i in range(20))
    (tmp_path / "eval.jsonl").write_text(
        json.dumps({"ctx": "short one", "endings": ["no", "nor this"]}) + "\n" + json.dumps({"ctx": [question]}) + "\n"
    )
    texts = [*TEXTS, f"{story(40)}. {question.upper()}! {story(41)}", f"{story(42)} {question[:40]}", "short one"]
    path = write_corpus(tmp_path / "in", ".jsonl", texts)
    job = job_of(path, tmp_path / "out", against=(tmp_path / "eval.jsonl",))
    found = clean(job, 1)
    assert found.reasons == {"contamination": 1}
    table = pq.read_table(tmp_path / "out" / "_hpt" / "removed.parquet").to_pylist()
    assert [(r["row"], r["reason"]) for r in table] == [(12, "contamination: holds eval.jsonl, row 1")]
    (tmp_path / "short.txt").write_text("nothing long\n")
    with pytest.raises(UserError, match="has 13 words in a row"):
        clean(replace(job, against=(tmp_path / "short.txt",), out=tmp_path / "other"), 1)


# --- score, plan --------------------------------------------------------------------------------------------------


def test_scores_count_pairs_by_id_or_place(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "in", ".jsonl")
    clean(job_of(path, tmp_path / "out"), 1)
    gone = tmp_path / "out" / "_hpt" / "removed.parquet"
    truth = [
        ("d3", "d12"),
        ("d12", "d14"),
        ("d7", "d15"),
        ("d1", "d2"),
    ]  # one is not there, and d17 is none
    (tmp_path / "ids.jsonl").write_text("\n".join(json.dumps({"a": a, "b": b}) for a, b in truth))
    found = score(gone, tmp_path / "ids.jsonl")
    assert (found.recall, found.precision) == (3 / 4, 3 / 4)
    places = [{"file_a": path.name, "row_a": int(a[1:]), "file_b": path.name, "row_b": int(b[1:])} for a, b in truth]
    pq.write_table(pa.Table.from_pylist(places), tmp_path / "places.parquet")
    assert score(gone, tmp_path / "places.parquet") == found
    (tmp_path / "x.jsonl").write_text('{"left": 1}\n')
    with pytest.raises(UserError, match="pairs are named by a and b"):
        score(gone, tmp_path / "x.jsonl")


def test_a_plan_counts_documents_and_money(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "in", ".parquet", [story(i) for i in range(300)])
    job = job_of(path, tmp_path / "out")
    one, four = plan(job, cores=1, usd_per_hour=2.0), plan(job, cores=4, nodes=2, usd_per_hour=2.0)
    assert one.documents == 300 and one.bytes == pytest.approx(300 * len(story(0)), rel=0.1)
    assert one.disk == 300 * 480 and one.shuffled == 300 * 320 and one.usd == pytest.approx(2 * one.hours)
    assert four.usd is not None and four.usd < one.usd * 2.5
    assert not (tmp_path / "out").exists()
