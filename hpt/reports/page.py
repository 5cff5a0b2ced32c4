"""The HTML page: one file, no network, light and dark, wide and narrow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from hpt.reports.chart import DARK, LIGHT, Chart
from hpt.reports.chart import STYLE as DRAWN
from hpt.reports.charts import best_lr, final_run, learning_curves, rungs, u_curves
from hpt.reports.comparison import comparison, doubts
from hpt.reports.figure import ALONE, BESIDE, figure
from hpt.reports.figure import SCRIPT as FIGURE_SCRIPT
from hpt.reports.figure import STYLE as FIGURE_STYLE
from hpt.reports.final import final_commands, final_headline, final_rows, predicted_loss, score_rows
from hpt.reports.further import further_commands, outlook_lines
from hpt.reports.gather import FinalFound, Found
from hpt.reports.text import (
    bill_rows,
    commands,
    headline,
    run_sentence,
    trial_headers,
    trial_rows,
)
from search.transfer.outlook import Outlook, outlook


def _root(colours: dict[str, str]) -> str:
    return ":root{" + ";".join(f"--{name}:{value}" for name, value in colours.items()) + "}"


STYLE = (
    f"{_root(LIGHT)}@media (prefers-color-scheme:dark){{{_root(DARK)}}}{DRAWN}{FIGURE_STYLE}"
    + """
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:24px 18px 60px}h1{font-size:1.5rem;line-height:1.25;margin:.2em 0}
h2{font-size:1.1rem;margin:2em 0 .5em;border-bottom:1px solid var(--rule);padding-bottom:.25em}
p{margin:.5em 0;max-width:46em}.soft{color:var(--soft)}.answer{font-size:1.15rem}.answer b{color:var(--accent)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:14px}
.wide{overflow-x:auto;background:linear-gradient(90deg,var(--bg) 40%,transparent) 0 0/40px 100%,
linear-gradient(270deg,var(--bg) 40%,transparent) 100% 0/40px 100%,
linear-gradient(90deg,var(--faint),transparent) 0 0/14px 100%,
linear-gradient(270deg,var(--faint),transparent) 100% 0/14px 100%;background-repeat:no-repeat;
background-attachment:local,local,scroll,scroll}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;min-width:50%}
th,td{padding:3px 10px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child,td:first-child,.facts td{text-align:left}
.facts td,.words td{white-space:normal}.words td,.words th{text-align:left}.facts thead{display:none}
.sortable th{cursor:pointer}.sortable th:hover{color:var(--accent)}
th[aria-sort=ascending]::after{content:" \\2191"}th[aria-sort=descending]::after{content:" \\2193"}
code,pre{font:13px/1.5 ui-monospace,monospace;background:var(--panel);border-radius:5px}code{padding:1px 4px}
pre{padding:10px 12px;overflow-x:auto;border:1px solid var(--rule);white-space:pre-wrap;overflow-wrap:anywhere}
summary{cursor:pointer}ul{padding-left:1.2em}
"""
)
SCRIPT = """
document.querySelectorAll('.sortable').forEach(t=>t.querySelectorAll('th').forEach((h,i)=>h.addEventListener('click',()=>{
const up=h.getAttribute('aria-sort')!=='ascending';t.querySelectorAll('th').forEach(x=>x.removeAttribute('aria-sort'));
h.setAttribute('aria-sort',up?'ascending':'descending');const b=t.tBodies[0];const v=r=>r.cells[i].dataset.v;
[...b.rows].sort((p,q)=>{const x=v(p),y=v(q);const n=(x===''?1e99:+x)-(y===''?1e99:+y);
return (isNaN(n)?x.localeCompare(y):n)*(up?1:-1)}).forEach(r=>b.append(r))})));
"""


def search_page(found: Found) -> str:
    sentence, notes = headline(found)
    more = outlook(found.history)
    parts = [
        f'<p class="soft">{escape(run_sentence(found))}</p>',
        f'<p class="answer">{sentence}</p>',
        _list(map(escape, notes)),
        _charts("What was measured", [u_curves(found), learning_curves(found)]),
        _charts("How the best learning rate moves", [*best_lr(found).values(), rungs(found)]),
        _section("The law", _law(found)),
        _section("The bill", _table(*bill_rows(found))),
        _section("What was not tried", _list(map(escape, outlook_lines(found, more))) + _pasted(found, more)),
        _section("Going on", f"<pre>{escape(chr(10).join(commands(found)))}</pre>"),
        _section("Trials", '<p class="soft">A click on a heading sorts.</p>' + _trials(found)),
    ]
    return _page(f"{found.path.name}: learning rate", "".join(parts))


def final_page(found: FinalFound) -> str:
    samples = f"<details><summary>Texts on the way</summary><pre>{escape(found.samples)}</pre></details>"
    parts = [
        f'<p class="answer">{escape(final_headline(found))}</p>',
        _table(("", ""), final_rows(found)).replace("<table>", '<table class="facts">'),
        _charts("On the way", final_run(found.result, predicted_loss(found))),
        _section("Scores", _table(*score_rows(found)) if found.evaluations else ""),
        _section("Samples", samples if found.samples else ""),
        _section("Going on", f"<pre>{escape(chr(10).join(final_commands(found)))}</pre>"),
    ]
    return _page(f"{found.path.name}: final run", "".join(parts))


def comparison_page(runs: Sequence[FinalFound]) -> str:
    headers, rows, charts = comparison(runs)
    parts = [_list(map(escape, doubts(runs))), _table(headers, rows), _charts("On the way", charts)]
    return _page("Final runs compared", "".join(parts))


def ablation_page(
    verdicts: dict[str, str], table: tuple[Sequence[str], Sequence[Sequence[str]]], charts: Sequence[Chart]
) -> str:
    """verdicts: a sentence by variant. table: headers, and a row a gap with its error."""
    lines = _list(f"<b>{escape(name)}</b>: {escape(sentence)}" for name, sentence in verdicts.items())
    return _page("Ablation", lines + _section("Gaps to the baseline", _table(*table)) + _charts("With scale", charts))


def _page(title: str, body: str) -> str:
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    return (
        f'<!doctype html><html lang="en"><head>{head}<title>{escape(title)}</title><style>{STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{body}</main><script>{SCRIPT}{FIGURE_SCRIPT}</script></body></html>"
    )


def _pasted(found: Found, more: Outlook | None) -> str:
    lines = further_commands(found, more)
    return f"<p>To run them:</p><pre>{escape(chr(10).join(lines))}</pre>" if lines else ""


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>{body}" if body else ""


def _charts(title: str, charts: Sequence[Chart | None]) -> str:
    there = [chart for chart in charts if chart]
    drawn = [figure(chart, ALONE if len(there) == 1 else BESIDE) for chart in there]
    return _section(title, f'<div class="charts">{"".join(drawn)}</div>' if drawn else "")


def _list(items: Iterable[str]) -> str:
    made = "".join(f"<li>{item}</li>" for item in items)
    return f"<ul>{made}</ul>" if made else ""


def _law(found: Found) -> str:
    answer = found.answer
    used = f"<p>{escape(answer['law'])}</p>" if answer.get("law") else ""
    rejected = answer.get("rejected") or []
    rows = [(law, reason) for law, reason in rejected]
    refused = _table(("fitted and not used", "because"), rows).replace("<table>", '<table class="words">')
    return used + (refused if rows else "")


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in headers)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _trials(found: Found) -> str:
    """Each cell carries the number that it is sorted by."""
    head = "".join(f"<th>{escape(h)}</th>" for h in trial_headers(found))
    body = "".join(
        "<tr>" + "".join(f'<td data-v="{escape(str(value))}">{escape(shown)}</td>' for shown, value in row) + "</tr>"
        for row in trial_rows(found)
    )
    table = f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="wide">{table}</div>'
