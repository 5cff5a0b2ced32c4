"""Fine-tuning inside: examples as tokens, rows packed whole, the masked loss, heads, decoding with a cache."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trainer import families
from trainer.architecture.model import Transformer
from trainer.config import DataConfig, ModelConfig, RunConfig, override
from trainer.data import prepare
from trainer.data.masking import NOTHING
from trainer.data.tokenizer import load_tokenizer, train_tokenizer
from trainer.errors import UserError
from trainer.finetune.decoding import Cache, Decoding, write
from trainer.finetune.encoding import Counts, encode, encode_all, prompt
from trainer.finetune.heads import HeadSettings, HeadTraining
from trainer.finetune.labelhead import encoded, pooled
from trainer.finetune.mixture import Part, make_rows, mixed
from trainer.finetune.packing import best_fit, pack
from trainer.finetune.spanhead import likeliest, windows
from trainer.loop import Training
from trainer.tasks import TASKS, Example

MODEL = ModelConfig(depth=2, width=32, heads=4, context=64, vocabulary=300, positions="rope")
RUN = RunConfig(model=MODEL, data=DataConfig(val_tokens=64), tokens=640, batch=64, lr=3e-3, precision="fp32")
WORDS = "the man of snow is good but a dog was bad and he saw it all day".split()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer([" ".join(WORDS)] * 50 + ["Question: Answer: yes no"] * 50, 300, path)
    return path


@pytest.fixture(scope="module")
def encoding(tokenizer: Path):  # type: ignore[no-untyped-def]
    return load_tokenizer(str(tokenizer))


def sentences(count: int, seed: int = 0) -> list[Example]:
    """Whether "good" or "bad" stands in it."""
    rng, found = random.Random(seed), []
    for k in range(count):
        label = k % 2
        words = [rng.choice(WORDS[:4]) for _ in range(rng.randrange(3, 9))] + ["good" if label else "bad"]
        rng.shuffle(words)
        text = " ".join(words)
        found.append(Example(source=text, ask="\nAnswer:", answers=(("no", "yes")[label],), label=label))
    return found


def test_a_long_example_is_shortened_at_its_source_alone(encoding) -> None:  # type: ignore[no-untyped-def]
    text = " ".join(WORDS * 10)
    start = text.rindex("dog")
    example = Example(source=text, after="\nQuestion: snow", ask="\nAnswer:", answers=("dog",))
    counts = Counts()
    cut, answer = encode(encoding, example, 64, counts)  # type: ignore[misc]
    assert len(cut) + len(answer) == 65 and counts.shortened == 1 and counts.lost > 50
    assert encoding.decode(cut[1:]).endswith("\nQuestion: snow\nAnswer:") and text.startswith(
        encoding.decode(cut[1:20])
    )
    assert encoding.decode(answer) == " dog<|endoftext|>" and cut[0] == encoding.eot_token
    kept, _ = encode(encoding, replace(example, keep=(start, start + 3)), 64, counts)  # type: ignore[misc]
    assert "dog" in encoding.decode(kept) and len(kept) == len(cut)
    read = prompt(encoding, replace(example, keep=(start, start + 3)), 40, Counts())
    assert len(read) == 40 and text.startswith(encoding.decode(read[1:20]))  # where the answer is, is not known then
    assert encode(encoding, replace(example, answers=(text,)), 64, counts) is None and counts.left_out == 1
    with pytest.raises(UserError, match="The context of 8 tokens is too short for any row of mine"):
        encode_all(encoding, [example], 8, "mine")
    with pytest.raises(UserError, match="has room for 6 tokens before the answer"):
        prompt(encoding, example, 6, Counts())


def test_best_fit_wastes_little_and_crops_nothing() -> None:
    lengths = [random.Random(0).randrange(1, 101) for _ in range(500)]
    rows = best_fit(lengths, 100)
    assert sorted(i for row in rows for i in row) == list(range(500))
    assert all(sum(lengths[i] for i in row) <= 100 for row in rows)
    assert sum(lengths) / (100 * len(rows)) > 0.95


def test_packed_rows_ask_for_answers_alone() -> None:
    pairs = [([9, 1, 2], [3, 9]), ([9, 4], [5, 6, 9]), ([9] + [7] * 8, [8, 9])]
    rows = pack(pairs, 12, 9, seed=0)
    assert rows.shape == (2, 3, 12)
    found = set()
    for tokens, targets, documents in rows:
        for number in sorted(set(documents.tolist())):
            at = documents == number
            asked = targets[at][targets[at] != NOTHING].tolist()
            if asked:
                found.add((tuple(tokens[at].tolist()), tuple(asked)))
                assert tokens[at].tolist()[-len(asked) + 1 :] == asked[:-1]
    assert found == {(tuple([*p, *a][:-1]), tuple(a)) for p, a in pairs}


def test_a_mixture_is_the_same_for_the_same_seed_and_weighs() -> None:
    parts = [([([k], [k]) for k in range(10)], 2.5), ([([k], [k]) for k in range(100, 104)], 1.0)]
    once, again, other = mixed(parts, 1), mixed(parts, 1), mixed(parts, 2)
    assert once == again != other and len(once) == 29
    counts = np.bincount([p[0] for p, _ in once], minlength=104)
    assert set(counts[:10]) == {2, 3} and (counts[100:104] == 1).all()


def test_the_masked_loss_is_a_plain_loops(encoding, tokenizer: Path) -> None:  # type: ignore[no-untyped-def]
    """Of packed rows, against each example alone through torch's own cross-entropy: also that none sees another."""
    examples = sentences(30)
    folder = make_rows([Part(name="x", train=examples, validation=examples[:9])], encoding, 64, 0, lambda text: None)
    data = DataConfig(corpus=str(folder), tokenizer="bpe:300", pack="rows", val_tokens=64, epochs=9)
    prepared = prepare(data)
    run = replace(RUN, data=replace(data, val_tokens=prepared.val_tokens), batch=prepared.train_tokens)
    training = Training(run, prepared)
    pairs, _ = encode_all(encoding, examples, 64, "x")
    model = Transformer(run)
    total = torch.zeros(())
    for before, answer in pairs:
        whole = torch.tensor([[*before.tolist(), *answer.tolist()]])
        logits = model(whole[:, :-1])[0, len(before) - 1 :]
        total = total + F.cross_entropy(logits, torch.tensor(answer.tolist()), reduction="sum")
    loss = total / sum(len(answer) for _, answer in pairs)
    loss.backward()
    mean, norm = training.train_step()
    wanted = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert mean.item() == pytest.approx(loss.item(), abs=1e-6) and norm.item() == pytest.approx(wanted.item(), rel=1e-4)
    again = make_rows([Part(name="x", train=examples, validation=examples[:9])], encoding, 64, 0, lambda text: None)
    assert again == folder


KNOBS = (
    ["model.positions=learned"], ["model.kv_heads=2", "model.qk_norm=True"], ["model.positions=alibi"],
    ["model.windows=0,8"], ["model.layout=aff", "model.v_dim=4"], ["model.norm_place=post"],
)  # fmt: skip


@pytest.mark.parametrize("knobs", KNOBS, ids=" ".join)
def test_the_cache_writes_what_a_whole_pass_would(knobs: list[str]) -> None:
    model, rng = Transformer(override(RUN, knobs)).eval(), random.Random(0)
    for p in model.parameters():
        p.data *= 3 if p.dim() > 1 else 1
    prompts = [[rng.randrange(300) for _ in range(length)] for length in (1, 50, 7, 33, 60)]
    found = write(model, prompts, Decoding(max_tokens=12, end=5))
    for before, answer in zip(prompts, found.answers, strict=True):
        whole = list(before)
        while len(whole) < len(before) + 12 and len(whole) <= 64:
            token = int(model(torch.tensor([whole]))[0, -1].argmax())
            if token == 5:
                break
            whole.append(token)
        assert answer == whole[len(before) :]
    assert found.tokens >= sum(map(len, found.answers)) and found.tokens_per_second > 0


def test_beams_find_what_trying_everything_finds() -> None:
    run = override(RUN, ["model.vocabulary=6", "model.depth=1"])
    model = Transformer(run).eval()
    for p in model.parameters():
        p.data *= 4 if p.dim() > 1 else 1
    prompts, end, most = [[1, 2, 3], [4], [2, 2]], 5, 3

    def score(before: list[int], answer: list[int]) -> float:
        whole = torch.tensor([[*before, *answer]])
        odds = model(whole[:, :-1])[0].log_softmax(-1)[len(before) - 1 :].detach()
        return float(odds.gather(1, torch.tensor(answer)[:, None]).mean())

    for before, answer in zip(prompts, write(model, prompts, Decoding(max_tokens=most, end=end, beams=200)).answers,
                              strict=True):  # fmt: skip
        options = [[a, b, c] for a in range(5) for b in range(5) for c in range(5)]
        options += [[end], *([a, end] for a in range(5)), *([a, b, end] for a in range(5) for b in range(5))]
        best = max(options, key=lambda o: score(before, o))
        assert answer == [t for t in best if t != end]
    one = [write(model, [p], Decoding(max_tokens=9, end=end, beams=3)).answers[0] for p in prompts]
    assert write(model, prompts, Decoding(max_tokens=9, end=end, beams=3)).answers == one


def test_decoding_refuses_what_makes_no_sense() -> None:
    with pytest.raises(UserError, match="leaves no room in a context of 64"):
        write(Transformer(RUN), [[1] * 64], Decoding(max_tokens=2, end=5))
    with pytest.raises(UserError, match="sees both ways"):
        write(Transformer(override(RUN, ["family=bert"])), [[1]], Decoding(max_tokens=2, end=5))
    assert Cache(Transformer(RUN), [[1, 2], [3]], 4).at.tolist() == [2, 1]


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_head_reads_one_token_and_no_padding(family: str, encoding) -> None:  # type: ignore[no-untyped-def]
    run = override(RUN, [f"family={family}"])
    model = Transformer(run).eval()
    rows = encoded(encoding, sentences(6), 32, Counts())
    together = pooled(model, rows, encoding.eot_token, torch.device("cpu"))
    at = -1 if run.model.causal else 0
    alone = torch.stack([model.features(torch.tensor([row]))[0, at] for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    short = encoded(encoding, [Example(source=" ".join(WORDS), after=" no yes")], 12, counts := Counts())[0]
    assert len(short) == 12 and encoding.decode(short).endswith("no yes<|endoftext|>") and counts.shortened == 1


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_head_learns_and_a_seed_repeats(family: str, encoding) -> None:  # type: ignore[no-untyped-def]
    assert family in families.FAMILIES
    run = override(RUN, [f"family={family}"])
    epochs = 4 if run.model.causal else 10  # from random weights the first token learns slowly to look at the others
    settings = HeadSettings(lr=3e-3, epochs=epochs, batch=16, length=24, seed=1)
    train, held = sentences(160), sentences(60, seed=1)

    def tuned():  # type: ignore[no-untyped-def]
        return HeadTraining(Transformer(run), run, encoding, TASKS["cola"], settings).train(train, held)

    found, again = tuned(), tuned()
    assert found.scores[0].name == "mcc" and found.scores[0].value > 0.9 and not found.diverged
    assert found.curve == again.curve and found.losses == again.losses
    assert all(torch.equal(t, again.tensors[n]) for n, t in found.tensors.items())


def test_a_head_for_values(encoding) -> None:  # type: ignore[no-untyped-def]
    some = [replace(e, label=1.0 + 3 * (e.label or 0)) for e in sentences(160)]
    settings = HeadSettings(lr=3e-3, epochs=4, batch=16, length=24)
    training = HeadTraining(Transformer(RUN), RUN, encoding, TASKS["stsb"], settings)
    found = training.train(some, some[:50])
    assert found.scores[0].name == "pearson" and found.scores[0].value > 0.9
    assert abs(training.reader.predict(some[:50])[0].mean() - 2.5) < 0.5


def asked(count: int, seed: int = 0) -> list[Example]:
    """Which animal is good: the answer stands behind that word, somewhere in the text."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        words = [rng.choice(WORDS[:4]) for _ in range(rng.randrange(2, 9))]
        at, answer = rng.randrange(len(words)), rng.choice(["dog", "man"])
        text = " ".join([*words[:at], "good", answer, *words[at:]])
        start = text.index("good ") + 5
        found.append(
            Example(source=text, after=" Question: good", answers=(answer,), keep=(start, start + len(answer)))
        )
    return found


@pytest.mark.parametrize("length", [20, 64])
def test_windows_hold_the_whole_text_and_know_where_answers_stand(length: int, encoding) -> None:  # type: ignore[no-untyped-def]
    some, seen = asked(40), set[int]()
    texts = dict[int, set[int]]()
    for window in windows(encoding, some, length, Counts()):
        example = some[window.example]
        begin, end = (len(example.source[:at].encode()) for at in example.keep or ())
        texts.setdefault(window.example, set()).update(range(window.bounds[0], window.bounds[-1]))
        assert len(window.tokens) <= length
        first, last = window.places(begin, end)
        if first != window.none:
            seen.add(window.example)
            pieces = encoding.decode(window.tokens[first : last + 1])
            assert pieces.strip() == example.answers[0] and window.first <= first <= last < window.none
    assert seen == set(range(40))
    assert all(texts[k] == set(range(len(e.source.encode()))) for k, e in enumerate(some))


def test_the_likeliest_pair_is_what_trying_all_finds() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 5, 40):
        begin, end = rng.normal(size=count), rng.normal(size=count)
        tried = {(i, j): begin[i] + end[j] for i in range(count) for j in range(i, min(count, i + 30))}
        value, start, stop = likeliest(begin, end)
        assert (start, stop) == max(tried, key=lambda pair: tried[pair]) and value == pytest.approx(max(tried.values()))


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_span_head_finds_answers(family: str, encoding) -> None:  # type: ignore[no-untyped-def]
    """Also where the text has several windows; of a task with unanswerable questions, those are told apart."""
    run = override(RUN, [f"family={family}", "model.positions=rope"])
    none = [replace(e, source=e.source.replace("good", "bad"), answers=("unanswerable",), keep=None) for e in asked(80)]
    for task, train, held in (
        ("squad", asked(240), asked(40, seed=1)),
        ("squad_v2", asked(240) + none, asked(40, seed=1) + none[:20]),
    ):
        settings = HeadSettings(lr=4e-3, epochs=10, batch=16, length=28, seed=1)
        found = HeadTraining(Transformer(run), run, encoding, TASKS[task], settings).train(train, held)
        assert found.scores[0].name == "f1" and found.scores[0].value > 0.8, (task, found.curve)
