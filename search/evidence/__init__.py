"""From trials to an answer: `cells` have an optimum each, `law` carries optima to the target, `answers` makes
recommendations.
"""
