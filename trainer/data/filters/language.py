"""The language of a text, by py3langid where it is installed (naive Bayes over byte n-grams; Lui and Baldwin 2012)."""

from __future__ import annotations

from collections.abc import Callable

from trainer.errors import UserError

HEAD = 2000  # characters that are looked at


def only(languages: tuple[str, ...]) -> Callable[[str], str]:
    """languages: ISO 639-1 codes, as en or de."""
    try:
        import py3langid  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("--language needs py3langid: pip install py3langid.") from None
    known = {name for name, _ in py3langid.rank("text")}
    if unknown := set(languages) - known:
        raise UserError(f"--language {' '.join(sorted(unknown))}: py3langid knows {' '.join(sorted(known))}.")

    def judge(text: str) -> str:
        found = py3langid.classify(text[:HEAD])[0]
        return "" if found in languages else f"language {found}"

    return judge
