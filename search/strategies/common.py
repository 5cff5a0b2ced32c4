from search.records import Recommendation


def recommend_from_history(h):
    best = min(h.finished, key=lambda t: (-t.horizon, t.loss), default=None)
    return Recommendation(lr=best and best.lr)
