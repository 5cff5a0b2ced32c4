"""Byte-level BPE as `tokenizer.json` of transformers, written from tiktoken's ranks and read into them."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from trainer.data.tokenizer import END_OF_TEXT, PATTERN, byte_characters
from trainer.errors import UserError

# Both directions are proved on this before anything is written: cases, digits, spaces, line ends, scripts, symbols.
SAMPLE = (
    "The quick brown fox's 1,234,567 jumps; don't, DON'T, We'LL!\n\n\tif x_1 != 0xFF:\r\n    return  [y*2]   \n"
    " naïve café — «ёлки» Straße ٣٤٥٦ 日本語のテスト 한국어 😀👩\u200d🚀 e\u0301 \u00a0\u3000 http://a.b/c?d=1&e=%20 "
    "aaaaaaaaaaaa ....... \n \n  "
)


def written(encoding: tiktoken.Encoding) -> str:
    """tokenizer.json that gives the ids of `encoding`.

    tiktoken keeps ranks only, so each token's merge is found again as the last pair that the lower ranks leave of it;
    like tiktoken, the result takes a piece that is a token whole (`ignore_merges`).
    """
    ranks, letters = encoding._mergeable_ranks, byte_characters()

    def spelled(token: bytes) -> str:
        return "".join(letters[b] for b in token)

    merges = [
        (spelled(pair[0]), spelled(pair[1]))
        for token, rank in sorted(ranks.items(), key=lambda item: item[1])
        if len(token) > 1 and (pair := _last_merge(token, rank, ranks)) is not None
    ]
    vocabulary = {spelled(token): rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([  # type: ignore[assignment]
        pre_tokenizers.Split(Regex(_oniguruma(encoding._pat_str)), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    # New tokens get the next free id, so ids that tiktoken leaves out (cl100k_base's 100256) must have a name too.
    name_of = {at: text for text, at in encoding._special_tokens.items()}
    specials = [name_of.get(at, f"<|unused_{at}|>") for at in range(len(ranks), encoding.n_vocab)]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    placed = all(tokenizer.token_to_id(text) == at for at, text in name_of.items())
    if not placed or tokenizer.encode(SAMPLE).ids != encoding.encode_ordinary(SAMPLE):
        raise UserError(f"Tokenizer {encoding.name} cannot be written for transformers with the same ids: use --to pt.")
    return tokenizer.to_str()


def read(folder: Path) -> tiktoken.Encoding | None:
    """The encoding that a folder's tokenizer.json is; None where there is none, or one that tiktoken cannot be: not
    byte-level BPE, ids in another order than the merges, no end of text, other ids on a sample."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text("utf-8"))
        theirs = Tokenizer.from_str(json.dumps(values))
        added = {token["content"]: token["id"] for token in values["added_tokens"]}
        byte_of = {character: byte for byte, character in byte_characters().items()}
        ranks = {
            bytes(byte_of[c] for c in token): rank
            for token, rank in values["model"]["vocab"].items()
            if token not in added
        }
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in values["model"]["merges"]]
        merged = [values["model"]["vocab"]["".join(pair)] for pair in pairs]
        if merged != sorted(merged) or not all(bytes([b]) in ranks for b in range(256)):
            return None
        encoding = tiktoken.Encoding(
            name=folder.name,
            pat_str=_pattern(values["pre_tokenizer"]),
            mergeable_ranks=ranks,
            special_tokens=_with_end_of_text(added, folder / "tokenizer_config.json"),
        )
        agree = theirs.encode(SAMPLE, add_special_tokens=False).ids == encoding.encode_ordinary(SAMPLE)
    except Exception:  # `tokenizers` raises nothing more special
        return None
    return encoding if agree and END_OF_TEXT in encoding._special_tokens else None


def _pattern(pre_tokenizer: dict[str, Any]) -> str:
    """The regular expression that splits text; GPT-2's where ByteLevel splits by itself."""
    parts = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    if len(parts) == 1:
        return PATTERN
    return next(part["pattern"]["Regex"] for part in parts if part["type"] == "Split")


def _with_end_of_text(added: dict[str, int], config: Path) -> dict[str, int]:
    """A vocabulary that ends documents by another name ends them by ours too."""
    if END_OF_TEXT not in added and config.is_file():
        name = json.loads(config.read_text("utf-8")).get("eos_token")
        name = name["content"] if isinstance(name, dict) else name
        if name in added:
            return {END_OF_TEXT if text == name else text: at for text, at in added.items()}
    return added


def _oniguruma(pattern: str) -> str:
    """tiktoken's regular expressions for the engine of `tokenizers`: `{1,3}+` would be a repeat of a repeat there, and
    `$` the end of any line. None of tiktoken's needs its possessive quantifiers for what it matches, only for speed."""
    return re.sub(r"(\{\d+(?:,\d*)?\}|(?<!\\)[?*+])\+", r"\1", pattern).replace("$", r"\z")


def _last_merge(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two parts that were merged into `token`; None where ranks below its own do not leave two."""
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        best, i = min((ranks.get(a + b, rank), i) for i, (a, b) in enumerate(pairwise(parts)))
        if best >= rank:
            return None
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return (parts[0], parts[1]) if len(parts) == 2 else None
