"""Masked language models: which tokens are hidden, what is asked, a document a sequence, pseudo-log-likelihood."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokens_made import make_data

from hpt.convert import settings
from trainer.architecture.model import Transformer
from trainer.checkpoints.trained import keep_tokenizer, open_trained
from trainer.config import DataConfig, ModelConfig, RunConfig, override, to_dict
from trainer.data import Prepared, check_enough, prepare
from trainer.data.batches import DocumentBatches
from trainer.data.masking import NOTHING, Masking
from trainer.data.shards import write_shard
from trainer.data.tokenizer import load_tokenizer, train_tokenizer, with_mask
from trainer.errors import UserError
from trainer.evals.evaluators import evaluate
from trainer.evals.likelihood import Scorer, encode_pair
from trainer.exchange import come, from_trained, leave, settle
from trainer.inputs import make_inputs, train_batches
from trainer.loop import Training
from trainer.presets import preset

CPU = torch.device("cpu")
RULE = Masking(rate=0.15, masked=0.8, random=0.1, token=64, vocabulary=64, end_of_text=63)
SMALL = RunConfig(
    model=ModelConfig(depth=1, width=16, heads=2, context=20, vocabulary=65), data=DataConfig(val_tokens=200),
    tokens=2000, batch=200, lr=3e-3, precision="fp32",
)  # fmt: skip
BERT = override(SMALL, ["family=bert"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return make_data(tmp_path_factory.mktemp("tokens"))


def test_masks_follow_berts_rule() -> None:
    tokens = np.random.default_rng(0).integers(0, 63, (400, 200))
    tokens[:, ::20] = 63
    seen, targets = RULE.apply(tokens, 0, seed=1)
    asked = targets != NOTHING
    assert (asked.sum(1) == round(0.15 * 190)).all()  # 28 of 190: the share is exact in each sequence
    assert not asked[:, ::20].any()  # what ends a text is never asked for
    assert (targets[asked] == tokens[asked]).all() and (seen[~asked] == tokens[~asked]).all()
    hidden, kept = (seen == 64)[asked].mean(), (seen == tokens)[asked].mean()
    assert hidden == pytest.approx(0.8, abs=0.015)
    assert kept == pytest.approx(0.1 + 0.1 / 64, abs=0.01)
    assert (seen[asked & (seen != 64)] < 64).all()
    columns = asked.mean(0)[np.arange(200) % 20 != 0]
    assert columns.std() < 1.5 * (0.147 * 0.853 / 400) ** 0.5  # all places alike


def test_masks_depend_on_seed_and_place_alone() -> None:
    tokens = np.random.default_rng(0).integers(0, 63, (8, 40))
    whole = RULE.apply(tokens, 100, seed=1)
    for first, last in ((0, 3), (3, 8)):
        part = RULE.apply(tokens[first:last], 100 + first, seed=1)
        assert all(np.array_equal(a, b[first:last]) for a, b in zip(part, whole, strict=True))
    for other in (RULE.apply(tokens, 101, seed=1), RULE.apply(tokens, 100, seed=2), RULE.apply(tokens, 100, None)):
        assert not np.array_equal(other[1], whole[1])
    assert (RULE.apply(tokens[:, :1], 0, 1)[1] != NOTHING).all()  # one token is asked for at least
    ends = np.full((1, 5), 63)
    assert (RULE.apply(ends, 0, 1)[1] == NOTHING).all()


def test_how_a_batch_is_cut_does_not_change_the_loss(data: Prepared, tmp_path: Path) -> None:
    for run in (BERT, override(SMALL, ["data.pack=documents"]), override(BERT, ["data.pack=documents"])):
        losses = []
        for micro in (1, 3, 10):
            training = Training(replace(run, micro_batch=micro), stories(tmp_path), CPU)
            losses.append([float(training.train_step()[0]) for _ in range(3)] + [training.evaluate()])
        assert losses[1] == pytest.approx(losses[0], rel=1e-5) and losses[2] == pytest.approx(losses[0], rel=1e-5)


def stories(folder: Path) -> Prepared:
    """Documents of 2, 30, 9 and 14 tokens over and over, end-of-text included."""
    rng, parts = np.random.default_rng(0), []
    for i in range(400):
        parts.append(np.array([63, *rng.integers(0, 63, (1, 29, 8, 13)[i % 4])]))
    write_shard(folder / "train.bin", parts, 64)
    write_shard(folder / "val.bin", parts[:100], 64)
    size = sum(map(len, parts))
    return Prepared(
        train=(folder / "train.bin",), val=(folder / "val.bin",), train_tokens=size, val_tokens=size // 4,
        vocabulary=64, tokenizer="none", end_of_text=63, bytes_per_token=2.0,
    )  # fmt: skip


def test_a_sequence_is_a_document_cut_or_padded(tmp_path: Path) -> None:
    made = stories(tmp_path)
    batches = DocumentBatches(made.val, 20, None, 63)
    assert batches.windows == 100 and batches.tokens == 2000
    rows = batches.sequences(0, 4)
    assert [(row != NOTHING).sum() for row in rows] == [2, 21, 9, 14]
    assert (rows[:, 0] == 63).all() and not (rows[:, 1:] == 63).any()
    run = override(SMALL, ["data.pack=documents"])
    inputs = make_inputs(run, made, batches, 0, 4)
    assert inputs.asked.tolist() == [1, 20, 8, 13] and inputs.documents is None
    epoch = train_batches(run, made).sequences(0, 400)
    long = [row.tobytes() for row in epoch if (row != NOTHING).sum() > 2]
    assert len(long) == len(set(long)) == 300  # each once
    masked = make_inputs(override(BERT, ["data.pack=documents"]), made, batches, 0, 4)
    assert masked.asked.tolist() == [1, 3, 1, 2] and masked.documents is not None
    assert masked.documents.sum(1).tolist() == [18, 0, 11, 6]
    with pytest.raises(UserError, match="no document of two tokens"):
        write_shard(tmp_path / "ends.bin", [np.full(9, 63)], 64)
        DocumentBatches((tmp_path / "ends.bin",), 20, None, 63)


def test_documents_are_counted_before_anything_is_trained(tmp_path: Path) -> None:
    made = stories(tmp_path)
    data = DataConfig(val_tokens=2000, pack="documents")
    check_enough(made, data, 400 * 20, 20)
    with pytest.raises(UserError, match="400 training documents, and the run reads 401 sequences .* data.epochs=2"):
        check_enough(made, data, 400 * 20 + 1, 20)
    check_enough(made, replace(data, epochs=2), 800 * 20, 20)
    with pytest.raises(UserError, match="100 held-out documents, and evaluations read 101 .* data.val_tokens=2000"):
        check_enough(made, replace(data, val_tokens=2020), 20, 20)


def test_padding_changes_nothing(tmp_path: Path) -> None:
    """A document's features are those that it has alone."""
    model = Transformer(BERT).eval()
    tokens, documents = torch.arange(20)[None], (torch.arange(20) >= 12).long()[None]
    other = torch.where(documents == 0, tokens, 63)
    with torch.no_grad():
        torch.testing.assert_close(model.features(other, documents)[:, :12], model.features(tokens[:, :12]))


def test_the_mask_needs_a_row(data: Prepared) -> None:
    full = replace(BERT, model=replace(BERT.model, vocabulary=64))
    with pytest.raises(UserError, match="beside the tokenizer's 64 ids: use --set model.vocabulary=65"):
        Training(full, data, CPU)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps on the README, in a folder."""
    folder = tmp_path_factory.mktemp("run")
    corpus = Path(__file__).parents[1] / "README.md"
    config = DataConfig(corpus=str(corpus), tokenizer="bpe:300", val_tokens=400)
    run = replace(BERT, data=config, model=replace(BERT.model, vocabulary=301, context=20))
    training = Training(run, prepare(config, vocabulary=301), CPU)
    for _ in range(3):
        training.train_step()
    training.save(folder / "checkpoints" / "step-00000003.safetensors")
    keep_tokenizer(folder, training.data)
    (folder / "loss.json").write_text(json.dumps(training.evaluate()))
    return folder


def test_a_trained_one_is_evaluated_on_the_same_masks(trained: Path) -> None:
    opened = open_trained(trained, CPU)
    assert opened.encoding.encode("<|mask|>", allowed_special="all") == [300]
    (score,) = evaluate(opened, opened.encoding, "val")
    assert score.value == pytest.approx(json.loads((trained / "loss.json").read_text()), rel=1e-5)
    readme = Path(__file__).parents[1] / "README.md"
    (score,) = evaluate(opened, opened.encoding, "val", readme, 20)
    assert 4 < score.value < 6.5 and score.standard_error is not None


def test_pseudo_log_likelihood_masks_one_token_at_a_time(trained: Path) -> None:
    opened = open_trained(trained, CPU)
    pairs = [("", " the run"), ("the optimiser", " steps"), ("a b c d e f g h i j k l m n o p q r", " longer than all")]
    sums, greedy = Scorer(model=opened.model, encoding=opened.encoding, batch_tokens=40).log_likelihoods(pairs)
    for i, pair in enumerate(pairs):
        before, after = encode_pair(opened.encoding, *pair)
        tokens = (before + after)[-20:]
        wanted, exact = 0.0, True
        for at in range(len(tokens) - len(after), len(tokens)):
            hidden = torch.tensor([tokens])
            hidden[0, at] = 300
            with torch.no_grad():
                odds = opened.model(hidden)[0, at].log_softmax(-1)
            wanted += odds[tokens[at]].item()
            exact &= int(odds.argmax()) == tokens[at]
        assert sums[i] == pytest.approx(wanted, abs=1e-4) and greedy[i] == exact


def test_blimp_says_which_mean_is_which(trained: Path, tmp_path: Path) -> None:
    opened = open_trained(trained, CPU)
    rows = {"hypernym": 3, "turn_taking": 1}
    for name, count in rows.items():
        lines = [{"sentence_good": "the run", "sentence_bad": "run the the the the"}] * count
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = {s.name: s for s in evaluate(opened, opened.encoding, "blimp_supplement", tmp_path)}
    assert set(scores) == {"acc", "acc_macro", "acc/hypernym", "acc/turn_taking"}
    assert scores["acc"].count == 4 and scores["acc_macro"].count == 2
    parts = [scores[f"acc/{name}"].value for name in rows]
    assert scores["acc_macro"].value == pytest.approx(sum(parts) / 2)


def test_it_leaves_with_its_mask_token_and_comes_back(trained: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    opened = open_trained(trained, CPU)
    leave(from_trained(opened), "hf", tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    ids = tokenizer("the <|mask|> of", add_special_tokens=False)["input_ids"]
    assert 300 in ids
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(torch.tensor([ids])).logits, opened.model(torch.tensor([ids])), atol=1e-4,
                                   rtol=1e-4)  # fmt: skip
    target = override(preset("llama-60m"), ["batch=240", *settings(opened.run).split()])  # as hpt.convert prints them
    assert target.model == opened.run.model and target.objective == "masked"
    settle(come(tmp_path / "hf"), tmp_path / "again")
    again = open_trained(tmp_path / "again", CPU)
    assert again.run.objective == "masked" and again.encoding.n_vocab == 301
    assert to_dict(again.run)["model"] == to_dict(opened.run)["model"] | {"ffn": 64}


def test_a_mask_token_of_another_name_is_known(tmp_path: Path) -> None:
    train_tokenizer(["some text to train on"], 260, tmp_path / "tokenizer.json")
    plain = load_tokenizer(str(tmp_path / "tokenizer.json"))
    masked = with_mask(plain)
    assert masked.n_vocab == plain.n_vocab + 1 and with_mask(masked) is masked
    assert masked.encode_ordinary("<|mask|> text") == plain.encode_ordinary("<|mask|> text")
