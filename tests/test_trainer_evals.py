"""Likelihoods and scores, against a plain reference in transformers and against models whose answers are known."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from trainer.architecture.model import Transformer
from trainer.config import ModelConfig, RunConfig
from trainer.data.tokenizer import load_tokenizer, train_tokenizer
from trainer.errors import UserError
from trainer.evals.evaluators import EVALUATORS, evaluate
from trainer.evals.likelihood import Scorer, encode_pair
from trainer.evals.multiple_choice import boolq, copa, hellaswag, openbookqa, piqa, winogrande

CONTEXT = 48
HELLASWAG = [
    {"activity_label": "Removing ice", "ctx_a": "Then, the man writes over the snow.", "ctx_b": "then",
     "endings": [", the man adds wax to the windshield.", "he stops [substeps] there", "snow", "it melts away"],
     "label": 3, "ind": 1},
    {"activity_label": "Food", "ctx_a": "How to make tea [title] Boil water [step] Fill the kettle.", "ctx_b": "",
     "endings": ["Pour it [title] Drink it.", "Café crème à la carte, façon café", "Wait  a while", "Sing"],
     "label": "1", "ind": 2},
]  # fmt: skip


@pytest.fixture(scope="module")
def encoding(tmp_path_factory: pytest.TempPathFactory) -> tiktoken.Encoding:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(["the man writes over the snow and then he stops to wait for the water " * 20], 300, path)
    return load_tokenizer(str(path))


@pytest.fixture(scope="module")
def twins(encoding: tiktoken.Encoding) -> tuple[Transformer, GPT2LMHeadModel]:
    return imported(encoding.n_vocab, CONTEXT)


def imported(vocabulary: int, context: int) -> tuple[Transformer, GPT2LMHeadModel]:
    """A random GPT-2 of transformers and the same weights in ours."""
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": context, "vocab_size": vocabulary}
    theirs = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.2)).eval()
    ours = Transformer(run(vocabulary, context))
    names = {
        "wte": "embedding", "wpe": "positions", "ln_f": "norm", "h": "blocks", "ln_1": "norm1", "ln_2": "norm2",
        "attn.c_attn": "attention.qkv", "attn.c_proj": "attention.out",
        "mlp.c_fc": "feed_forward.up", "mlp.c_proj": "feed_forward.down",
    }  # fmt: skip
    state = {}
    for name, value in theirs.transformer.state_dict().items():
        parts = name.split(".")
        if parts[0] == "h":
            name = ".".join(("blocks", parts[1], names[".".join(parts[2:-1])], parts[-1]))
            value = value.T if value.dim() == 2 else value  # transformers' Conv1D holds [in, out]
        else:
            name = f"{names[parts[0]]}.{parts[1]}"
        state[name] = value
    ours.load_state_dict(state)
    return ours.eval(), theirs


def run(vocabulary: int, context: int, **more: Any) -> RunConfig:
    model = ModelConfig(depth=2, width=32, heads=4, context=context, vocabulary=vocabulary, **more)
    return RunConfig(model=model, tokens=context, batch=context, precision="fp32")


@torch.no_grad()
def reference(model: GPT2LMHeadModel, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """One pair at a time, as the harness publishes it."""
    tokens = (context + continuation)[-(model.config.n_positions + 1) :][:-1]
    logits = model(torch.tensor([tokens])).logits[0].log_softmax(-1)[-len(continuation) :]
    wanted = torch.tensor(continuation)
    return logits.gather(1, wanted[:, None]).sum().item(), bool((logits.argmax(1) == wanted).all())


def unigram(encoding: tiktoken.Encoding, bonus: dict[int, float], context: int = CONTEXT) -> Transformer:
    """A model that gives each token the same probability wherever it stands."""
    model = Transformer(run(encoding.n_vocab, context, tied=False))
    with torch.no_grad():
        model.norm.weight.zero_()  # type: ignore[union-attr, operator]
        model.norm.bias.zero_()[0] = 1.0  # type: ignore[union-attr, operator, index]
        model.head.weight.zero_()  # type: ignore[union-attr]
        for token, logit in bonus.items():
            model.head.weight[token, 0] = logit  # type: ignore[union-attr]
    return model.eval()


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_likelihoods_are_those_of_transformers(twins: Any, encoding: tiktoken.Encoding) -> None:
    ours, theirs = twins
    text = "the man writes over the snow; naïve cafés, 12 of them! then he stops to wait"
    pairs = [("", "the man"), ("the man ", "writes"), ("the", " snow and"), (text, " for the water"), ("a\n", "b")]
    words = [*text.split(), *text.split()]
    pairs += [(" ".join(words[:k]), " " + " ".join(words[k : k + 2])) for k in range(1, len(words))]
    sums, greedy = Scorer(model=ours, encoding=encoding).log_likelihoods(pairs)
    tokens = [encode_pair(encoding, *pair) for pair in pairs]
    assert max(len(c) + len(a) for c, a in tokens) > CONTEXT + 1  # some are truncated
    wanted = [reference(theirs, *pair) for pair in tokens]
    assert sums == pytest.approx([value for value, _ in wanted], abs=2e-4)
    assert greedy.tolist() == [exact for _, exact in wanted]


def test_greedy_continuations_are_known(twins: Any, encoding: tiktoken.Encoding) -> None:
    ours, theirs = twins
    context, likely = [5, 6, 7], []
    for _ in range(4):
        likely.append(int(theirs(torch.tensor([context + likely])).logits[0, -1].argmax()))
    _, greedy = Scorer(model=ours, encoding=encoding).of_tokens([(context, likely), (context, [*likely[:3], 1])])
    assert greedy.tolist() == [True, likely[3] == 1]


def test_a_pair_is_encoded_as_one_text(encoding: tiktoken.Encoding) -> None:
    assert encode_pair(encoding, "the man ", "writes") == encode_pair(encoding, "the man", " writes")
    assert encode_pair(encoding, "", "the") == ([encoding.eot_token], encoding.encode_ordinary("the"))
    for context, continuation in (("the snow", " and then"), ("he stops \n", "to wait")):
        first, second = encode_pair(encoding, context, continuation)
        assert first + second == encoding.encode_ordinary(context + continuation)
    with pytest.raises(UserError, match="is empty"):
        encode_pair(encoding, "the man", "")


def test_order_and_batches_change_nothing(twins: Any, encoding: tiktoken.Encoding) -> None:
    rng = np.random.default_rng(0)
    pairs = [
        ([*rng.integers(0, 290, a).tolist()], [*rng.integers(0, 290, b).tolist()])
        for a, b in rng.integers(1, 60, (50, 2))
    ]
    alone = Scorer(model=twins[0], encoding=encoding, batch_tokens=1).of_tokens(pairs)[0]
    together = Scorer(model=twins[0], encoding=encoding).of_tokens(pairs[::-1])[0][::-1]
    assert together == pytest.approx(alone, abs=1e-4)


def test_no_token_of_a_long_continuation_is_lost(encoding: tiktoken.Encoding) -> None:
    model, long = unigram(encoding, {7: 2.0}), [7, 8] * (2 * CONTEXT) + [7]
    total = math.log(math.exp(2) + encoding.n_vocab - 1)
    seen = []
    scorer = Scorer(model=model, encoding=encoding, progress=lambda done, all: seen.append((done, all)))
    sums, _ = scorer.of_tokens([([1], long), ([1, 2, 3], [7])])
    assert sums == pytest.approx([(2 * CONTEXT + 1) * 2.0 - len(long) * total, 2.0 - total], rel=1e-5)
    assert seen[-1][0] == seen[-1][1] > 0


def test_hellaswag_by_the_harness(twins: Any, encoding: tiktoken.Encoding, tmp_path: Path) -> None:
    first, second = map(hellaswag, HELLASWAG)
    assert first.pairs[0] == (
        "Removing ice: Then, the man writes over the snow. Then", " , the man adds wax to the windshield.",
    )  # fmt: skip
    assert first.choices[1] == "he stops there" and first.label == 3
    assert second.pairs[0] == ("Food: How to make tea. Boil water Fill the kettle.", " Pour it. Drink it.")
    right = {"acc": [], "acc_norm": [], "acc_bytes": []}
    for item in (first, second):
        values = np.array([reference(twins[1], *encode_pair(encoding, *pair))[0] for pair in item.pairs])
        right["acc"].append(values.argmax() == item.label)
        right["acc_norm"].append((values / [len(c) for c in item.choices]).argmax() == item.label)
        right["acc_bytes"].append((values / [len(c.encode()) for c in item.choices]).argmax() == item.label)
    scores = evaluate(twins[0], encoding, "hellaswag", written(tmp_path / "h.jsonl", HELLASWAG))
    assert {s.name: s.value for s in scores} == {name: np.mean(values) for name, values in right.items()}


def test_a_planted_preference_has_the_accuracy_planted(encoding: tiktoken.Encoding, tmp_path: Path) -> None:
    """The model likes `!`: a choice of that one token wins, and of two such the one normalised by less."""
    (bang,) = encoding.encode_ordinary(" !")[-1:]
    model = unigram(encoding, {bang: 20.0})
    rows = [{"query": "Q", "choices": ["!", "abc"], "gold": k % 4 == 0} for k in range(20)]
    scores = evaluate(model, encoding, "choice", written(tmp_path / "c.jsonl", rows))
    assert [s.name for s in scores] == ["acc", "acc_norm", "acc_bytes"]
    assert scores[0].value == 0.75 and scores[0].count == 20
    assert scores[0].standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 19))
    half = evaluate(model, encoding, "choice", tmp_path / "c.jsonl", limit=10)  # every second: all labels even
    assert half[0].value == 0.5 and half[0].count == 10
    one = evaluate(model, encoding, "choice", tmp_path / "c.jsonl", limit=1)
    assert one[0].standard_error is None


def test_characters_and_bytes_normalise_differently(encoding: tiktoken.Encoding, tmp_path: Path) -> None:
    """Uniform model: -log V for each of the tokens, which here are the bytes and the space."""
    model = unigram(encoding, {})
    rows = [{"query": "Q", "choices": ["éééé", "xqxqxq"], "gold": 1}]  # 8 bytes, 4 characters; 6 and 6
    scores = evaluate(model, encoding, "choice", written(tmp_path / "c.jsonl", rows))
    assert {s.name: s.value for s in scores} == {"acc": 1.0, "acc_norm": 1.0, "acc_bytes": 0.0}


def test_lambada_and_blimp_of_a_unigram(encoding: tiktoken.Encoding, tmp_path: Path) -> None:
    word = encoding.encode_ordinary(" snow")
    model = unigram(encoding, dict.fromkeys(word[:1], 8.0))
    total = math.log(math.exp(8) + encoding.n_vocab - 1)
    file = written(tmp_path / "l.jsonl", [{"text": "the man writes over the snow"}] * 2)
    perplexity, accuracy = evaluate(model, encoding, "lambada", file)
    assert perplexity.value == pytest.approx(math.exp(len(word) * total - 8.0), rel=1e-4)
    assert perplexity.standard_error == pytest.approx(0.0) and accuracy.value == float(len(word) == 1)
    folder = tmp_path / "blimp"
    folder.mkdir()
    good = {"sentence_good": "snow", "sentence_bad": "q snow", "linguistics_term": "binding"}
    written(folder / "a.jsonl", [good] * 3)
    written(folder / "b.jsonl", [{"sentence_good": "q snow", "sentence_bad": "snow", "UID": "quantifiers"}])
    scores = {s.name: (s.value, s.count) for s in evaluate(model, encoding, "blimp", folder)}
    assert scores == {"acc": (0.75, 4), "acc_macro": (0.5, 2), "acc/binding": (1.0, 3), "acc/quantifiers": (0.0, 1)}


def test_prompts_of_authors_and_of_llm_foundry_are_one() -> None:
    query = "Question: How do I ready a cage?\n"
    row = {"goal": "How do I ready a cage?", "sol1": "Paper.", "sol2": "Jeans.", "label": 1}
    assert piqa(row) == piqa({"query": query, "choices": ["Paper.", "Jeans."], "gold": 1})
    premise = {"premise": "The man turned on the faucet.", "question": "effect", "label": 1}
    row = {**premise, "choice1": "The toilet filled with water.", "choice2": "Water flowed."}
    choices = ["the toilet filled with water.", "water flowed."]
    assert copa(row).pairs[0] == ("The man turned on the faucet therefore", "  the toilet filled with water.")
    assert copa(row) == copa({"query": "The man turned on the faucet, therefore", "choices": choices, "gold": 1})
    row = {"sentence": "Ann met Bo so _ left early.", "option1": "Ann", "option2": "Bo", "answer": "2"}
    contexts = ["Ann met Bo so Ann", "Ann met Bo so Bo"]
    assert winogrande(row) == winogrande({"context_options": contexts, "continuation": "left early.", "gold": 1})
    row = {"passage": "Tea is wet.", "question": "is tea wet", "answer": True}
    query = "Passage: Tea is wet.\nQuestion: is tea wet?"
    assert boolq(row) == boolq({"query": query, "choices": ["no", "yes"], "gold": 1})
    parts = [{"text": "lions", "label": "A"}, {"text": "grass", "label": "B"}]
    row = {"question": {"stem": "Predators eat", "choices": parts}, "answerKey": "A"}
    assert openbookqa(row) == openbookqa({"query": "Predators eat", "choices": ["lions", "grass"], "gold": 0})


@pytest.mark.parametrize(
    ("task", "content", "sentence"),
    [
        ("hellaswag", '{"ctx": "A man"}\n', "line 1 is not an item of this task"),
        ("hellaswag", json.dumps({**HELLASWAG[0], "label": ""}) + "\n", "ValueError"),
        ("hellaswag", json.dumps(HELLASWAG[0]) + "\n{broken\n", "line 2 is not a JSON object"),
        ("choice", '{"query": "Q", "choices": ["a", "b"], "gold": 2}\n', "the label 2"),
        ("choice", '{"query": "Q", "choices": ["a", ""], "gold": 0}\n', "not empty"),
        ("arc_easy", '{"question": "Q", "answerKey": "A"}\n', "KeyError: 'choices'"),
        ("lambada", '{"text": "word"}\n', "several words"),
        ("blimp", '{"sentence_good": "A"}\n', "no sentence_good and sentence_bad"),
        ("piqa", "", "holds no rows"),
        ("val", "too short", "give more text"),
    ],
)
def test_malformed_files(task: str, content: str, sentence: str, tmp_path: Path, encoding: tiktoken.Encoding) -> None:
    path = tmp_path / ("text.txt" if task == "val" else "file.jsonl")
    path.write_text(content)
    with pytest.raises(UserError) as error:
        evaluate(unigram(encoding, {}), encoding, task, path)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_diverged_model_is_said(encoding: tiktoken.Encoding, tmp_path: Path) -> None:
    file = written(tmp_path / "l.jsonl", [{"text": "the man"}])
    with pytest.raises(UserError, match="diverged"):
        evaluate(unigram(encoding, {3: math.nan}), encoding, "lambada", file)


def test_any_text_has_a_loss(encoding: tiktoken.Encoding, tmp_path: Path) -> None:
    text = "the man writes over the snow and then he stops to wait " * 10
    (tmp_path / "text.txt").write_text(text)
    loss, bits = evaluate(unigram(encoding, {}), encoding, "val", tmp_path / "text.txt")
    tokens = 1 + len(encoding.encode_ordinary(text))
    assert loss.value == pytest.approx(math.log(encoding.n_vocab), rel=1e-5) and loss.count == (tokens - 1) // CONTEXT
    assert bits.value == pytest.approx(loss.value / math.log(2) * tokens / len(text), rel=1e-5)


def unmarked(text: str) -> str:
    return re.sub(r"\[[^]]*\]", "", text).replace("  ", " ")


SAMPLES: list[tuple[str, str, Callable[[dict[str, Any]], list[tuple[str, str]]]]] = [
    ("hellaswag", "hellaswag_val.jsonl.gz",
     lambda r: [(unmarked(f"{r['activity_label']}: {r['ctx']}"), " " + unmarked(e)) for e in r["endings"]]),
    ("arc_easy", "icl_arc_easy.jsonl.gz", lambda r: [(r["query"] + "\nAnswer:", " " + c) for c in r["choices"]]),
    ("winogrande", "icl_winogrande.jsonl.gz",
     lambda r: [(c, " " + r["continuation"]) for c in r["context_options"]]),
]  # fmt: skip


@pytest.mark.parametrize(("task", "file", "requests"), SAMPLES)
def test_real_tasks_by_the_harness(
    task: str, file: str, requests: Any, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample of the real files with GPT-2's tokenizer: same accuracies as one by one in transformers."""
    from trainer.evals.files import rows

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken"))
    gpt2, count = load_tokenizer("gpt2"), 30
    ours, theirs = imported(gpt2.n_vocab, 100)
    plain, normed = [], []
    for _, row in rows(shared / "eval" / file, count):
        pairs = requests(row)
        values = np.array([reference(theirs, *encode_pair(gpt2, *pair))[0] for pair in pairs])
        label = row.get("gold", row.get("label"))
        plain.append(values.argmax() == label)
        normed.append((values / [len(a) - 1 for _, a in pairs]).argmax() == label)
    scores = {s.name: s for s in evaluate(ours, gpt2, task, shared / "eval" / file, count)}
    assert scores["acc"].value == np.mean(plain) and scores["acc"].count == count
    if task == "winogrande":
        assert list(scores) == ["acc"]
    else:
        assert scores["acc_norm"].value == np.mean(normed)


def test_every_development_file_is_read(shared: Path, encoding: tiktoken.Encoding) -> None:
    names = {"lambada": "lambada_openai_test.jsonl.gz", "blimp": "blimp.jsonl.zst",
             "blimp_supplement": "babylm_blimp_supplement.jsonl.gz"}  # fmt: skip
    names |= {n: f"icl_{n}.jsonl.gz" for n in ("piqa", "arc_challenge", "copa", "boolq")}
    names |= {"openbookqa": "icl_openbook_qa.jsonl.gz", "choice": "icl_siqa.jsonl.gz"}
    model = unigram(encoding, {}, context=256)
    for task, name in names.items():
        for score in evaluate(model, encoding, task, shared / "eval" / name, 8):
            assert score.value > 0 or score.name.startswith("acc"), (task, score)
            assert score.count == 8 or task.startswith("blimp") and score.name != "acc", (task, score)
    assert set(names) | {"val", "hellaswag", "arc_easy", "winogrande"} == set(EVALUATORS)
