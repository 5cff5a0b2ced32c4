"""Near-duplicates: the pure steps against exact references, and what they find against planted edits."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt.benches.planted import planted
from trainer.data.deduplication import LIKE, Settings, shingles
from trainer.data.deduplication.bands import candidates, keys, unique
from trainer.data.deduplication.check import checked, similarities
from trainer.data.deduplication.clusters import clusters, removals
from trainer.data.deduplication.shingles import shingles as shingled
from trainer.data.deduplication.signatures import signatures
from trainer.data.deduplication.truth import jaccard, sets, similar_pairs
from trainer.errors import UserError


def found_pairs(texts: pa.Array, how: Settings) -> np.ndarray:
    """The whole chain up to checked pairs."""
    signed, units = signatures(texts, how)
    documents = np.flatnonzero(units > 0)
    bands = 1 if how.exact else how.bands
    pairs = [candidates(keys(signed[documents], band, how), documents) for band in range(bands)]
    return checked(signed, unique(np.concatenate(pairs)), how)


def grams(text: str, n: int) -> set[tuple[str, ...]]:
    """What a shingle is, said by a regular expression; ASCII alone."""
    words = re.findall(r"\w+", text.lower(), re.ASCII)
    return {tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, min(1, len(words))))}


ASCII = st.text(alphabet=st.sampled_from("ab1_B .,\n-"), max_size=40)


@given(st.lists(ASCII, min_size=1, max_size=8), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_shingles_are_runs_of_words(texts: list[str], n: int) -> None:
    made = sets(pa.array(texts, pa.large_string()), Settings(shingle=n))
    reference = [grams(text, n) for text in texts]
    assert [len(s) for s in made] == [len(g) for g in reference]
    for i, one in enumerate(reference):
        for j, other in enumerate(reference):
            shared = len(one & other) / max(1, len(one | other))
            assert jaccard(made[i], made[j]) == pytest.approx(shared)


def test_case_punctuation_and_white_space_do_not_count() -> None:
    texts = ["Hello world again", "“hello” — WORLD,\nagain…", "ÄPFEL isst «Ä»", "äpfel isst ä", "！。", "", None]
    made = shingled(pa.array(texts), Settings(shingle=2))
    parts = [made.hashes[a:b].tolist() for a, b in zip(made.offsets[:-1], made.offsets[1:], strict=True)]
    assert parts[0] == parts[1] and parts[2] == parts[3] and made.units.tolist() == [3, 3, 3, 3, 1, 0, 0]
    assert parts[0] != parts[2] and parts[5] == parts[6] == []


def test_characters_for_languages_without_spaces() -> None:
    texts = pa.array(["我喜欢在早上喝茶看报纸", "我喜欢 在早上喝茶看报 纸", "完全不同的一句话在这里"])
    made = sets(texts, Settings(unit="characters", shingle=3))
    assert jaccard(made[0], made[1]) == 1 and jaccard(made[0], made[2]) < 0.2


@given(st.integers(1, 3000), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_how_texts_are_batched_changes_nothing(size: int, seed: int) -> None:
    rng = random.Random(seed)
    texts = pa.array([" ".join(rng.choice("abcdefgh") for _ in range(rng.randrange(60))) for _ in range(50)])
    whole, _ = signatures(texts, Settings())
    parts = pa.chunked_array([texts.slice(i, 7) for i in range(0, 50, 7)])
    assert np.array_equal(whole, signatures(parts, Settings())[0])
    before = shingles.SEGMENT
    try:  # a document of many segments has the hashes it has in one
        shingles.SEGMENT = size
        shingles._powers.cache_clear()
        assert np.array_equal(whole, signatures(texts, Settings())[0])
    finally:
        shingles.SEGMENT = before
        shingles._powers.cache_clear()


def test_estimates_are_unbiased() -> None:
    """Within 4 standard errors of the mean, at known similarities."""
    how, errors = Settings(shingle=1), list[float]()
    for trial in range(60):
        shared = [f"s{trial}_{i}" for i in range(150)]
        own = [[f"{side}{trial}_{i}" for i in range(50)] for side in "ab"]
        texts = pa.array([" ".join(shared + part) for part in own])
        errors.append(float(similarities(signatures(texts, how)[0], np.array([[0, 1]]))[0]) - 150 / 250)
    assert abs(np.mean(errors)) < 4 * (0.24 / how.values / 60) ** 0.5
    assert np.std(errors) < 1.6 * (0.24 / how.values) ** 0.5


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40))
@settings(max_examples=100, deadline=None)
def test_clusters_and_what_is_kept(edges: list[tuple[int, int]]) -> None:
    pairs = np.array([e for e in edges if e[0] != e[1]], np.int64).reshape(-1, 2)
    reach = {i: {i} for i in range(31)}
    for a, b in pairs.tolist():
        joined = reach[a] | reach[b]
        for i in joined:
            reach[i] = joined
    sizes = np.array([(i * 7) % 11 for i in range(31)])
    for gone, rank in ((removals(pairs), lambda i: i), (removals(pairs, sizes), lambda i: (-sizes[i], i))):
        best = {i: min(reach[i], key=rank) for i in range(31)}
        assert dict(gone.tolist()) == {i: b for i, b in best.items() if b != i}
        assert gone[:, 0].tolist() == sorted(gone[:, 0])
    if len(pairs):
        documents, labels = clusters(pairs)
        for i, one in enumerate(documents):
            assert [labels[i] == label for label in labels] == [other in reach[one] for other in documents]


def test_candidates_are_the_first_with_each_other() -> None:
    key, documents = np.array([5, 3, 5, 9, 3, 5], np.uint64), np.array([4, 9, 2, 1, 7, 8])
    assert sorted(map(tuple, candidates(key, documents).tolist())) == [(2, 4), (2, 8), (7, 9)]
    assert unique(np.array([[1, 2], [0, 3], [1, 2]])).tolist() == [[0, 3], [1, 2]]
    assert candidates(np.zeros(0, np.uint64), np.zeros(0, np.int64)).shape == (0, 2)


@pytest.mark.parametrize("count", [1000, 4000])
def test_recall_and_precision_on_planted_edits(count: int) -> None:
    texts = pa.array(planted(count, seed=count), pa.large_string())
    how = Settings()
    documents = sets(texts, how)
    truth = similar_pairs(documents, 0.65)
    assert len(truth) > count / 20
    pairs = found_pairs(texts, how)
    gone = dict(removals(pairs).tolist())
    root = {i: gone.get(i, i) for i in range(count)}
    similar = [pair for pair, value in truth.items() if value >= 0.8]
    assert np.mean([root[a] == root[b] for a, b in similar]) >= 0.97
    right = np.mean([jaccard(documents[a], documents[b]) >= how.threshold - 0.05 for a, b in gone.items()])
    assert right >= 0.98 - 2 * (0.02 * 0.98 / len(gone)) ** 0.5  # the goal, less two standard errors of a small sample


def test_the_truth_is_the_truth() -> None:
    documents = sets(pa.array(planted(300, seed=5), pa.large_string()), Settings())
    brute = {(a, b) for b in range(300) for a in range(b) if jaccard(documents[a], documents[b]) >= 0.6}
    assert set(similar_pairs(documents, 0.6)) == brute and brute


def test_exact_means_the_same_words_in_the_same_order() -> None:
    texts = pa.array(["The cat sat.", "the cat  sat", "sat the cat", "the cat sat sat", "a", "A!", ""])
    assert found_pairs(texts, Settings(exact=True)).tolist() == [[0, 1], [4, 5]]


@pytest.mark.parametrize("n", [100, 1000, 2500])
@pytest.mark.parametrize("how", [Settings(), Settings(shingle=3), LIKE["fineweb"]], ids=["hpt", "3-grams", "fineweb"])
def test_the_courses_articles(shared: Path, n: int, how: Settings) -> None:
    with gzip.open(shared / "dedup" / f"articles_{n}.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    ids = [row["id"] for row in rows]
    truth = [json.loads(line) for line in (shared / "dedup" / f"articles_{n}_pairs.jsonl").read_text().splitlines()]
    found = found_pairs(pa.array([row["text"] for row in rows], pa.large_string()), how)
    assert {frozenset((ids[a], ids[b])) for a, b in found} == {frozenset((p["a"], p["b"])) for p in truth}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"threshold": 0.0}, "--threshold 0 must be above 0"),
        ({"threshold": 1.2}, "--threshold 1.2 must be above 0 and at most 1"),
        ({"bands": 2, "rows": 20}, r"candidates of only 0\.2% of the pairs at the threshold of 0\.7"),
        ({"shingle": 0}, "--shingle must be at least 1"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Settings(**given)  # type: ignore[arg-type]


def test_recall_is_the_banding_formula() -> None:
    assert Settings().recall(0.7) == pytest.approx(1 - (1 - 0.7**6) ** 20)
    assert LIKE["fineweb"].recall(0.75) == pytest.approx(0.772, abs=1e-3)  # as FineWeb's paper says
