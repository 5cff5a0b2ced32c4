"""Public corpora by name: where each is, in which format, under which licence, and how much of it a run needs.

Addresses are of the Hugging Face hub (HF_ENDPOINT names another server). The hub publishes the SHA-256 of every large
file, and `fetch` checks it. Counts and sizes are rounded, from the data sets' own cards.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Where a corpus is, in files that are useful one by one."""

    repository: str
    """Dataset repository on the hub."""
    revision: str = "main"
    val: tuple[str, ...] = ()
    """Files that are fetched first: validation, where there is any."""
    train: str | tuple[str, ...]
    """File name with a number in braces, one file, or their list."""
    shards: int = 1
    first: int = 1
    tokens_per_shard: int = 0
    """Of files of tokens; 0: files of text."""
    documents_per_file: int = 0
    tokenizer: str = "bpe:4096"
    text_field: str = "text"
    columns: tuple[str, ...] = ("text",)
    licence: str = ""
    gigabytes: float = 0.0
    """Of all its files."""
    line: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """Of training."""
        if isinstance(self.train, tuple):
            return self.train
        return tuple(self.train.format(i) for i in range(self.first, self.first + self.shards))


GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "qnli", "rte", "wnli")
ONE = "-00000-of-00001.parquet"

CORPORA: dict[str, Corpus] = {
    "fineweb10b": Corpus(
        repository="kjj0/fineweb10B-gpt2", val=("fineweb_val_000000.bin",), train="fineweb_train_{:06d}.bin",
        shards=103, tokens_per_shard=100_000_000, tokenizer="gpt2", columns=(), licence="ODC-By 1.0", gigabytes=20.6,
        line="10B tokens of FineWeb, GPT-2's tokenizer, llm.c's shards of 100M",
    ),
    "fineweb-edu10b": Corpus(
        repository="kjj0/finewebedu10B-gpt2", val=("finewebedu_val_000000.bin",), train="finewebedu_train_{:06d}.bin",
        shards=99, tokens_per_shard=100_000_000, tokenizer="gpt2", columns=(), licence="ODC-By 1.0", gigabytes=20.0,
        line="10B tokens of FineWeb-Edu, likewise",
    ),
    "openwebtext": Corpus(
        repository="Skylion007/openwebtext", train="plain_text/train-{:05d}-of-00080.parquet", shards=80, first=0,
        documents_per_file=100_172, tokenizer="gpt2", licence="CC0 1.0", gigabytes=24.2,
        line="8.0M web pages linked from Reddit, as WebText was made (Gokaslan and Cohen 2019), 40 GB of text",
    ),
    "pile": Corpus(
        repository="monology/pile-uncopyrighted", val=("val.jsonl.zst",), train="train/{:02d}.jsonl.zst", shards=30,
        first=0, documents_per_file=5_900_000, tokenizer="gpt2", columns=("text", "meta"), licence="of its parts",
        gigabytes=340, line="the Pile (arXiv 2101.00027) without its five copyrighted parts, about 177M documents",
    ),
    "fineweb": Corpus(
        repository="HuggingFaceFW/fineweb", train="sample/10BT/{:03d}_00000.parquet", shards=15, first=0,
        documents_per_file=1_000_000, tokenizer="gpt2", licence="ODC-By 1.0", gigabytes=30.6,
        columns=("text", "id", "dump", "url", "date", "file_path", "language", "language_score", "token_count"),
        line="the sample of 10B tokens of FineWeb (arXiv 2406.17557) as text, 14.9M pages",
    ),
    "fineweb-edu": Corpus(
        repository="HuggingFaceFW/fineweb-edu", train="sample/10BT/{:03d}_00000.parquet", shards=14, first=0,
        documents_per_file=700_000, tokenizer="gpt2", licence="ODC-By 1.0", gigabytes=28.5,
        columns=("text", "id", "dump", "url", "file_path", "language", "language_score", "token_count", "score"),
        line="the sample of 10B tokens of FineWeb-Edu as text, 9.7M pages",
    ),
    "c4": Corpus(
        repository="allenai/c4", val=("en/c4-validation.00000-of-00008.json.gz",),
        train="en/c4-train.{:05d}-of-01024.json.gz", shards=1024, first=0, documents_per_file=356_317,
        tokenizer="gpt2", columns=("text", "timestamp", "url"), licence="ODC-By 1.0", gigabytes=327,
        line="C4, English (arXiv 1910.10683), 365M pages",
    ),
    "tinystories": Corpus(
        repository="roneneldan/TinyStories", val=("TinyStoriesV2-GPT4-valid.txt",),
        train="TinyStoriesV2-GPT4-train.txt", licence="CDLA-Sharing-1.0", gigabytes=2.3,
        line="2.7M short stories (arXiv 2305.07759), text",
    ),
    "cnn_dailymail": Corpus(
        repository="abisee/cnn_dailymail", val=(f"3.0.0/validation{ONE}", f"3.0.0/test{ONE}"),
        train="3.0.0/train-{:05d}-of-00003.parquet", shards=3, first=0, documents_per_file=95_705, tokenizer="gpt2",
        text_field="article", columns=("article", "highlights", "id"), licence="Apache-2.0", gigabytes=0.84,
        line="news and their highlights (arXiv 1704.04368), 287,113 to train on, for fine-tuning",
    ),
    "squad": Corpus(
        repository="rajpurkar/squad", val=(f"plain_text/validation{ONE}",), train=f"plain_text/train{ONE}",
        documents_per_file=87_599, tokenizer="gpt2", text_field="context", licence="CC BY-SA 4.0", gigabytes=0.016,
        columns=("id", "title", "context", "question", "answers"),
        line="questions on Wikipedia (arXiv 1606.05250), 87,599 to train on, for fine-tuning",
    ),
    "squad_v2": Corpus(
        repository="rajpurkar/squad_v2", val=(f"squad_v2/validation{ONE}",), train=f"squad_v2/train{ONE}",
        documents_per_file=130_319, tokenizer="gpt2", text_field="context", licence="CC BY-SA 4.0", gigabytes=0.018,
        columns=("id", "title", "context", "question", "answers"),
        line="the same with questions that have no answer (arXiv 1806.03822), 130,319 to train on",
    ),
    "glue": Corpus(
        repository="nyu-mll/glue",
        val=(
            *(f"{task}/validation{ONE}" for task in GLUE),
            *(f"mnli/validation_{part}{ONE}" for part in ("matched", "mismatched")),
        ),
        train=(*(f"{task}/train{ONE}" for task in GLUE), f"mnli/train{ONE}"), shards=9, tokenizer="gpt2",
        text_field="sentence", columns=("sentence or sentence1, sentence2 ...", "label", "idx"), licence="of its parts",
        gigabytes=0.16, line="nine tasks of understanding (arXiv 1804.07461), for fine-tuning",
    ),
}  # fmt: skip


def wanted(
    corpus: Corpus, name: str, *, tokens: float | None = None, documents: int | None = None, shards: int | None = None
) -> list[str]:
    """Names of the files that a run of so many tokens or documents needs (the whole corpus: none given), validation
    first."""
    count = len(corpus.files) if shards is None else shards
    if tokens is not None and not corpus.tokens_per_shard and len(corpus.files) > 1:
        raise UserError(f"{name} is text, whose tokens are not known before: ask for --documents or --shards.")
    if tokens is not None and corpus.tokens_per_shard:
        count = -int(-tokens // corpus.tokens_per_shard)
    if documents is not None:
        if not corpus.documents_per_file:
            raise UserError(f"How many documents a file of {name} holds is not known: use --shards.")
        count = -int(-documents // corpus.documents_per_file)
    if not 0 < count <= len(corpus.files):
        each = f"{corpus.tokens_per_shard:,} tokens" if corpus.tokens_per_shard else "text"
        raise UserError(
            f"{name} has {len(corpus.files)} training shards of {each}, and {count} are asked for: lower --tokens, "
            "--documents or --shards."
        )
    return [*corpus.val, *corpus.files[:count]]


def from_address(address: str, kinds: tuple[str, ...]) -> tuple[str, Corpus]:
    """A name for its folder and the files of a kind that hpt reads, of hf://datasets/OWNER/NAME[@REVISION][/FOLDER]."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    match = re.fullmatch(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.+?))?/?", address)
    if match is None:
        raise UserError(f"{address} is no address of a data set: write hf://datasets/OWNER/NAME[@REVISION][/FOLDER].")
    repository, revision, folder = match[1], match[2] or "main", match[3]
    try:
        names = HfApi(endpoint=os.environ.get("HF_ENDPOINT")).list_repo_files(
            repository, repo_type="dataset", revision=revision
        )
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise UserError(f"The hub has no data set {repository} at {revision}, or it is not public.") from None
    except (HfHubHTTPError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:150]
        raise UserError(f"The files of {address} cannot be listed ({reason}): check the network.") from None
    except Exception as error:  # the hub's client brings errors of whichever HTTP library it uses
        raise UserError(
            f"The files of {address} cannot be listed ({type(error).__name__}): check the network."
        ) from None
    files = tuple(sorted(n for n in names if n.endswith(kinds) and (not folder or f"{n}/".startswith(f"{folder}/"))))
    if not files:
        raise UserError(f"{address} has no files that hpt reads: {', '.join(kinds)}.")
    return f"{repository.replace('/', '--')}@{revision}", Corpus(
        repository=repository,
        revision=revision,
        train=files,
        shards=len(files),
        line=f"{len(files)} files of {repository}",
    )
