"""Metrics of labels and values, as GLUE and SuperGLUE have them; plain numpy and scipy.

predicted [n] are classes or values; chance [n] is how likely class 1 is held to be, where a choice is made by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from trainer.evals.score import Score
from trainer.tasks.spans import token_f1
from trainer.tasks.task import Example

Metric = Callable[[Sequence[Example], np.ndarray, np.ndarray], float]
RESAMPLES = 200


def truth(examples: Sequence[Example]) -> np.ndarray:
    return np.array([e.label for e in examples], float)


def accuracy(examples: Sequence[Example], predicted: np.ndarray, chance: np.ndarray) -> float:
    return float((truth(examples) == predicted).mean())


def f1_of(wanted: np.ndarray, predicted: np.ndarray, label: float = 1) -> float:
    """2 tp / (2 tp + fp + fn), 0 where nothing is of this label."""
    right = ((wanted == label) & (predicted == label)).sum()
    either = (wanted == label).sum() + (predicted == label).sum()
    return float(2 * right / either) if either else 0.0


def f1(examples: Sequence[Example], predicted: np.ndarray, chance: np.ndarray) -> float:
    return f1_of(truth(examples), predicted)


def macro_f1(examples: Sequence[Example], predicted: np.ndarray, chance: np.ndarray) -> float:
    wanted = truth(examples)
    classes = np.union1d(wanted, predicted)
    return float(np.mean([f1_of(wanted, predicted, label) for label in classes]))


def mcc(examples: Sequence[Example], predicted: np.ndarray, chance: np.ndarray) -> float:
    """Matthews's correlation, of any number of classes (Gorodkin 2004); 0 where one class alone is predicted."""
    wanted, classes = truth(examples), np.union1d(truth(examples), predicted)
    table = np.array([[((wanted == a) & (predicted == b)).sum() for b in classes] for a in classes], float)
    of, said, count = table.sum(1), table.sum(0), table.sum()
    spread = (count**2 - (said**2).sum()) * (count**2 - (of**2).sum())
    return float((np.trace(table) * count - said @ of) / np.sqrt(spread)) if spread > 0 else 0.0


def pearson(examples: Sequence[Example], predicted: np.ndarray, chance: np.ndarray) -> float:
    return correlation(truth(examples), predicted)


def spearman(examples: Sequence[Example], predicted: np.ndarray, chance: np.ndarray) -> float:
    from scipy import stats  # 0.9 s of import, that no --help needs

    return correlation(stats.rankdata(truth(examples)), stats.rankdata(predicted))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; 0 where one of them does not vary."""
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0


def exact(examples: Sequence[Example], predicted: np.ndarray, chance: np.ndarray) -> float:
    """Share of the questions all of whose answers are judged rightly (MultiRC's EM)."""
    right = truth(examples) == predicted
    return float(np.mean([right[rows].all() for rows in groups(examples)]))


def choice(examples: Sequence[Example], predicted: np.ndarray, chance: np.ndarray) -> float:
    """Share of the questions whose likeliest choice is a right one (COPA; ReCoRD's EM)."""
    wanted = truth(examples)
    return float(np.mean([wanted[rows[chance[rows].argmax()]] for rows in groups(examples)]))


def choice_f1(examples: Sequence[Example], predicted: np.ndarray, chance: np.ndarray) -> float:
    """ReCoRD's F1: of the likeliest candidate's words with the nearest right answer's. An example's first answer is the
    candidate, the others are right."""
    best = [examples[rows[chance[rows].argmax()]].answers for rows in groups(examples)]
    return float(np.mean([max(token_f1(answers[0], right) for right in answers[1:]) for answers in best]))


def groups(examples: Sequence[Example]) -> list[np.ndarray]:
    found = dict[str, list[int]]()
    for i, example in enumerate(examples):
        found.setdefault(example.group or str(i), []).append(i)
    return [np.array(rows) for rows in found.values()]


METRICS: dict[str, Metric] = {
    "acc": accuracy, "f1": f1, "macro_f1": macro_f1, "mcc": mcc, "pearson": pearson, "spearman": spearman,
    "f1a": f1, "em": exact, "choice_acc": choice, "choice_em": choice, "choice_f1": choice_f1,
}  # fmt: skip


def scores(
    names: Sequence[str], examples: Sequence[Example], predicted: np.ndarray, chance: np.ndarray | None = None
) -> list[Score]:
    """By name; standard errors by a seeded bootstrap over questions."""
    chance = predicted.astype(float) if chance is None else chance
    parts, rng = groups(examples), np.random.default_rng(0)
    drawn = [np.concatenate([parts[i] for i in rng.integers(0, len(parts), len(parts))]) for _ in range(RESAMPLES)]
    result = []
    for name in names:
        metric, value = METRICS[name], METRICS[name](examples, predicted, chance)
        again = [metric([examples[i] for i in rows], predicted[rows], chance[rows]) for rows in drawn]
        error = float(np.std(again)) if len(parts) > 1 else None
        result.append(Score(name=name, value=value, standard_error=error, count=len(parts)))
    return result


def majority(examples: Sequence[Example], trained: Sequence[Example], value: bool) -> np.ndarray:
    """[n] the commonest label of the training examples (their mean, of a regression)."""
    known = truth(trained or examples)
    classes, counts = np.unique(known, return_counts=True)
    return np.full(len(examples), known.mean() if value else classes[counts.argmax()])
