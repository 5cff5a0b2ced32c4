"""From text to batches: corpora, tokenizers, llm.c token shards, deterministic batches. numpy only."""

from trainer.data.batches import Batches as Batches
from trainer.data.prepare import Prepared as Prepared
from trainer.data.prepare import check_enough as check_enough
from trainer.data.prepare import here as here
from trainer.data.prepare import prepare as prepare
