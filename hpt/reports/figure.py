"""A chart in a page: drawn for a phone, for half a page and for a whole one, of which the browser shows what fits, so
that words are never small. Tab reaches its points, the arrow keys go from one to the next; the button enlarges it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape

from hpt.reports.chart import Chart
from hpt.reports.marks import colour_of

PHONE, HALF, MIDDLE, WHOLE = 300, 480, 640, 980  # px, of a drawing whose words are 12 px
ALONE, BESIDE = (PHONE, MIDDLE, WHOLE), (PHONE, HALF, MIDDLE)
"""Widths of a chart that has the page's width, and of one that stands beside others."""
STYLE = """
figure{position:relative;container-type:inline-size;margin:0;padding:10px;background:var(--panel);
border:1px solid var(--rule);border-radius:8px}
figure svg{width:100%;height:auto;display:block}
figcaption{font-size:.86rem;color:var(--soft);margin-top:6px}
.key{margin-top:4px;display:flex;flex-wrap:wrap;gap:2px 14px}
.key i{display:inline-block;width:10px;height:10px;border:2px solid;border-radius:5px;margin-right:5px}
.key .line,.key .dash{width:16px;height:0;border-width:2px 0 0;border-radius:0;vertical-align:4px}
.key .dash{border-style:dashed}
.read{display:block;min-height:1.5em;color:var(--fg)}.point{outline:none;cursor:pointer}
.point:focus{stroke:var(--fg);stroke-width:3}
figure button{float:right;font:12px system-ui,sans-serif;color:var(--soft);background:var(--bg);cursor:pointer;
border:1px solid var(--rule);border-radius:5px;padding:2px 8px;margin-left:8px}
figure.large{position:fixed;inset:0;z-index:9;border-radius:0;overflow:auto}
""" + "".join(
    f"@container(min-width:{w}px){{.to{w}{{display:none!important}}}}"
    f"@container(max-width:{w - 0.01:.2f}px){{.from{w}{{display:none!important}}}}"
    for w in (HALF, MIDDLE, WHOLE)
)
SCRIPT = """
document.querySelectorAll('figure').forEach(f=>{const read=f.querySelector('.read'),b=f.querySelector('button');
f.querySelectorAll('svg').forEach(s=>{const x=p=>p.getBBox().x,points=[...s.querySelectorAll('.point')];
points.forEach((p,i)=>{p.tabIndex=i?-1:0;p.addEventListener('focus',()=>{
points.forEach(q=>q.tabIndex=q===p?0:-1);read.textContent=p.querySelector('title').textContent});
p.addEventListener('click',()=>p.focus());p.addEventListener('keydown',e=>{
const step={ArrowRight:1,ArrowDown:1,ArrowLeft:-1,ArrowUp:-1}[e.key];if(!step)return;e.preventDefault();
const row=[...points].sort((p,q)=>x(p)-x(q));(row[row.indexOf(p)+step]||p).focus()})})});
let zoom=1;const show=large=>{f.classList.toggle('large',large);b.textContent=large?'close':'enlarge';
zoom=1;size()},size=()=>f.querySelectorAll('svg').forEach(s=>s.style.width=zoom>1?zoom*100+'%':'');
b.addEventListener('click',()=>show(!f.classList.contains('large')));
f.addEventListener('keydown',e=>{if(!f.classList.contains('large'))return;if(e.key==='Escape')show(false);
const by={'+':1.25,'=':1.25,'-':.8}[e.key];if(by){zoom=Math.min(8,Math.max(1,zoom*by));size()}});
f.addEventListener('wheel',e=>{if(!f.classList.contains('large'))return;e.preventDefault();
zoom=Math.min(8,Math.max(1,zoom*(e.deltaY<0?1.15:.87)));size()},{passive:false})});
"""


def figure(chart: Chart, widths: Sequence[int]) -> str:
    """`widths`: in px, ascending, of the drawings."""
    bounds = [*widths[1:], None]
    drawn = []
    for k, (width, until) in enumerate(zip(widths, bounds, strict=True)):
        shown = [f"from{width}"] * (k > 0) + [f"to{until}"] * (until is not None)
        drawn.append(
            f'<svg class="{" ".join(shown)}" viewBox="0 0 {width} {chart.height}" role="group" '
            f'aria-label="{escape(chart.title, quote=True)}">{replace(chart, width=width).drawing()}</svg>'
        )
    items = "".join(
        f'<span><i class="{kind}" style="border-color:{colour_of(c)};background:'
        f'{colour_of(c) if kind == "dot" else "none"}"></i>{escape(text)}</span>'
        for text, c, kind in chart.legend
    )
    key = f'<div class="key">{items}</div>' if items else ""
    told = '<output class="read" aria-live="polite"></output>' if "point" in drawn[0] else ""
    button = '<button type="button">enlarge</button>'
    return f"<figure>{''.join(drawn)}<figcaption>{button}{escape(chart.title)}{key}{told}</figcaption></figure>"
