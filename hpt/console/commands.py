"""The table of commands: one line each, in the groups in which somebody looks for them."""

from __future__ import annotations

GROUPS = {
    "Find a learning rate": {
        "search": "find the peak lr of a run with cheap proxies, for no more than a budget",
        "advise": "the lr that a table of runs made anyway speaks for (W&B, MLflow, Optuna, a sheet)",
        "ask": "the next trials of a search that another scheduler runs",
        "tell": "how such a trial ended",
        "cost": "what runs would cost here, from 20 timed steps",
    },
    "Make the run": {
        "train": "make the final run at the lr that a search recommends",
        "ablate": "is a change of architecture, data or optimiser better, and at every scale?",
        "merge": "average or ensemble runs grown from one seed checkpoint",
    },
    "Use it": {
        "finetune": "fine-tune one model on tasks: summaries, questions, GLUE, SuperGLUE, yours",
    },
    "Look at it": {
        "ls": "searches and final runs at a glance",
        "show": "what one of them found, once more",
        "report": "a page of what a search or a final run found",
        "export": "a search for Optuna's dashboard, TensorBoard, W&B or a spreadsheet",
        "ui": "MLflow's pages, opened at a search",
        "evaluate": "score a trained model on held-out text and zero-shot tasks",
        "generate": "let a trained model write",
        "inspect": "a page of a model's attention maps, heads, neurons and logit lens",
        "convert": "export a trained model to transformers or llm.c, or bring one in",
    },
    "Data": {
        "data": "fetch public corpora, look into any",
    },
    "Judge and develop": {
        "compare": "race strategies on a recorded sweep: regret against cost",
        "regret": "judge a search's answer by a dense grid at the same target",
        "mup": "check that a parametrisation transfers: activations, and lr sweeps, over widths",
        "bench": "how fast this is here, beside plain PyTorch, plain Ray Tune and nanoGPT",
        "completion": "tab completion for bash and zsh",
    },
}
COMMANDS = {name: line for group in GROUPS.values() for name, line in group.items()}
