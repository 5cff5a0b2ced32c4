"""The page of hpt.inspect: one file, its pictures drawn by its own script, no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import tiktoken

from hpt.reports.numbers import short
from hpt.reports.page import STYLE
from trainer.architecture.counts import parameters
from trainer.config import RunConfig
from trainer.inspect.attention import Heads
from trainer.inspect.neurons import Neuron

BEFORE, AFTER = 10, 4
"""Tokens shown around one that activates a neuron."""
STYLE_INSIDE = """
.models{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:26px}
.models>section{min-width:0}.maps{display:grid;gap:4px;grid-template-columns:repeat(auto-fill,minmax(64px,1fr))}
.maps button{padding:2px;border:2px solid var(--rule);border-radius:6px;background:var(--panel);cursor:pointer;
font:12px system-ui;color:var(--soft)}.maps button[aria-pressed=true]{border-color:var(--accent)}
canvas{width:100%;image-rendering:pixelated;display:block}
.big{max-width:440px;margin:8px 0;border:1px solid var(--rule)}
.alike{max-width:260px;border:1px solid var(--rule)}.said{min-height:1.5em;font-size:.9rem}
.text{line-height:2;overflow-wrap:anywhere}
.text button{border:0;border-radius:4px;padding:0 2px;margin:0 1px;font:13px ui-monospace,monospace;color:inherit;
background:transparent;cursor:pointer;white-space:pre-wrap}
.text button[aria-pressed=true]{outline:2px solid var(--accent)}
.heat td{padding:3px 6px}.heat td+td{color:#111}.lens td{font:12px ui-monospace,monospace;text-align:left;
max-width:9em;overflow:hidden}.lens td+td{color:#111}details{margin:.3em 0}summary{cursor:pointer}
.context{font:13px/1.6 ui-monospace,monospace;overflow-wrap:anywhere}
mark{background:#f6b73c;color:#111;border-radius:3px}
"""
SCRIPT = """
const bytes=t=>Uint8Array.from(atob(t),c=>c.charCodeAt(0));
const draw=(canvas,data,from,n)=>{canvas.width=canvas.height=n;const c=canvas.getContext('2d'),i=c.createImageData(n,n);
for(let k=0;k<n*n;k++){const v=Math.sqrt(data[from+k]/255);i.data[4*k]=255-215*v;i.data[4*k+1]=255-175*v;
i.data[4*k+2]=255-85*v;i.data[4*k+3]=255}c.putImageData(i,0,0)};
document.querySelectorAll('section[data-model]').forEach(s=>{const m=JSON.parse(s.querySelector('script').textContent);
const data=bytes(m.maps),n=m.tokens.length,big=s.querySelector('.big'),said=s.querySelector('.said');
const words=[...s.querySelectorAll('.text button')],heads=[...s.querySelectorAll('.maps button')];let head=0,row=n-1;
const at=(q,k)=>data[head*n*n+q*n+k]/255;
const show=()=>{draw(big,data,head*n*n,n);heads.forEach((b,i)=>b.setAttribute('aria-pressed',i===head));
words.forEach((b,k)=>{b.setAttribute('aria-pressed',k===row);
b.style.background='rgba(40,110,220,'+Math.sqrt(at(row,k)).toFixed(3)+')'});
said.textContent=heads[head].title+': '+m.tokens[row]+' looks most at '+
[...Array(n).keys()].sort((a,b)=>at(row,b)-at(row,a))
.slice(0,3).map(k=>m.tokens[k]+' ('+at(row,k).toFixed(2)+')').join(', ')};
heads.forEach((b,i)=>{draw(b.querySelector('canvas'),data,i*n*n,n);b.addEventListener('click',()=>{head=i;show()});
b.addEventListener('mouseenter',()=>{head=i;show()})});
words.forEach((b,i)=>{b.addEventListener('click',()=>{row=i;show()});b.addEventListener('mouseenter',()=>{row=i;show()})});
const move=e=>{const r=big.getBoundingClientRect(),f=v=>Math.max(0,Math.min(n-1,Math.floor(v*n)));
row=f((e.clientY-r.top)/r.height);const k=f((e.clientX-r.left)/r.width);show();
said.textContent=m.tokens[row]+' looks at '+m.tokens[k]+': '+at(row,k).toFixed(3)};
big.addEventListener('mousemove',move);big.addEventListener('click',move);show();
const c=s.querySelector('.alike');draw(c,bytes(m.alike),0,m.count)});
"""


@dataclass(frozen=True, kw_only=True)
class Inside:
    """What was found in one model."""

    name: str
    run: RunConfig
    step: int
    encoding: tiktoken.Encoding
    tokens: list[int]
    maps: np.ndarray
    """[A, H, T, T]."""
    lens_ids: np.ndarray
    """[L + 1, T, top], and probabilities alike."""
    lens_odds: np.ndarray
    heads: Heads
    texts: int
    """Over which heads are averaged."""
    neurons: list[Neuron]
    sequences: np.ndarray
    """[n, T], in which the neurons' strongest tokens stand."""

    def word(self, token: int) -> str:
        if token >= self.encoding.n_vocab:
            return f"<{token}>"
        text = self.encoding.decode_single_token_bytes(int(token)).decode("utf-8", errors="replace")
        return text.replace("\n", "↵")


def inside_page(models: Sequence[Inside]) -> str:
    """The models side by side where there is room."""
    title = " and ".join(m.name for m in models)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    body = "".join(f"<section data-model>{_model(m)}</section>" for m in models)
    return (
        f'<!doctype html><html lang="en"><head>{head}<title>Inside {escape(title)}</title>'
        f"<style>{STYLE}{STYLE_INSIDE}</style></head><body><main><h1>Inside {escape(title)}</h1>"
        f'<div class="models">{body}</div></main><script>{SCRIPT}</script></body></html>'
    )


def _model(m: Inside) -> str:
    model, size = m.run.model, short(parameters(m.run.model).total)
    kind = "causal" if model.causal else "masked"
    parts = [
        f'<p class="soft">{escape(m.name)}: {size} parameters, {model.depth} blocks of {model.heads} heads, {kind}, '
        f"step {m.step:,}</p>",
        "<h2>Attention</h2><p>A row of a map is a token, a column what it looks at. A head enlarges it; a token of the "
        "text is coloured by what it looks at.</p>",
        f'<div class="maps">{_buttons(m)}</div><canvas class="big" aria-label="the map of the chosen head"></canvas>',
        f'<p class="said"></p><p class="text">{_text(m)}</p>',
        "<h2>What heads do</h2>" + _heads(m),
        "<h2>Heads alike</h2><p>The cosine of two heads' maps: dark pairs do the same. Rows and columns are the heads "
        'in the order above.</p><canvas class="alike"></canvas>',
        "<h2>What each block would predict</h2><p>The output head on the stream after each block; a darker cell is "
        f"surer. {'The next token' if model.causal else 'The token itself'}, from left to right.</p>" + _lens(m),
        _neurons(m),
        f'<script type="application/json">{_data(m)}</script>',
    ]
    return "".join(parts)


def _data(m: Inside) -> str:
    """Maps and similarities as bytes: 255 is 1."""
    found = {
        "tokens": [m.word(t) for t in m.tokens], "maps": _packed(m.maps), "alike": _packed(m.heads.similarity),
        "count": len(m.heads.similarity),
    }  # fmt: skip
    return json.dumps(found).replace("<", "\\u003c")


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(np.rint(255 * values.clip(0, 1)).astype(np.uint8).tobytes()).decode()


def _places(m: Inside) -> list[str]:
    parts, count, letters = m.maps.shape[0], m.maps.shape[1], m.run.model.layout.count("a")
    return [f"block {a // letters + 1}, head {h + 1}" for a in range(parts) for h in range(count)]


def _buttons(m: Inside) -> str:
    return "".join(
        f'<button title="{place}" aria-pressed="false"><canvas></canvas>'
        f"{place.replace('block ', '').replace(', head ', '.')}</button>"
        for place in _places(m)
    )


def _text(m: Inside) -> str:
    return "".join(f"<button>{escape(m.word(token))}</button>" for token in m.tokens)


def _heads(m: Inside) -> str:
    texts = f"{m.texts} texts of the corpus" if m.texts > 1 else "this text"
    top = float(m.heads.entropy.max()) or 1.0
    rows = []
    columns = (m.heads.entropy, m.heads.own, m.heads.previous, m.heads.first)
    for i, place in enumerate(_places(m)):
        cells = "".join(
            f'<td style="background:{_shade(v / (top if k == 0 else 1))}">{v:.2f}</td>'
            for k, v in enumerate(float(c.flat[i]) for c in columns)
        )
        rows.append(f"<tr><td>{place}</td>{cells}</tr>")
    names = ("", "entropy", "itself", "before", "first")
    head = "".join(f"<th>{name}</th>" for name in names)
    table = f'<table class="heat"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return (
        f"<p>Means over {texts}: entropy of a row in bits, and the share of attention that goes to the token itself, "
        f'the one before, the first of the text.</p><div class="wide">{table}</div>'
    )


def _shade(value: float) -> str:
    v = min(1.0, max(0.0, value))
    return f"rgb({255 - 150 * v:.0f},{255 - 110 * v:.0f},{255 - 40 * v:.0f})"


def _lens(m: Inside) -> str:
    rows = []
    head = "<th></th>" + "".join(f"<th>{escape(m.word(t))}</th>" for t in m.tokens)
    for level, (ids, odds) in enumerate(zip(m.lens_ids, m.lens_odds, strict=True)):
        cells = "".join(
            f'<td style="background:{_shade(float(p[0]))}" title="{escape(_options(m, i, p))}">'
            f"{escape(m.word(i[0]))}</td>"
            for i, p in zip(ids, odds, strict=True)
        )
        rows.append(f"<tr><td>{'before' if level == 0 else f'block {level}'}</td>{cells}</tr>")
    table = f'<table class="lens"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _options(m: Inside, ids: np.ndarray, odds: np.ndarray) -> str:
    return ", ".join(f"{m.word(i)} {p:.2f}" for i, p in zip(ids, odds, strict=True))


def _neurons(m: Inside) -> str:
    if not m.neurons:
        return ""
    intro = (
        "<h2>Neurons</h2><p>Of each feed-forward part those whose strongest tokens lie furthest above their mean, "
        f"over {m.sequences.size:,} tokens; the marked token is where they are strongest.</p>"
    )
    blocks = list[str]()
    for block in dict.fromkeys(n.block for n in m.neurons):
        mine = "".join(_neuron(m, n) for n in m.neurons if n.block == block)
        blocks.append(f"<details{' open' if not blocks else ''}><summary>block {block + 1}</summary>{mine}</details>")
    return intro + "".join(blocks)


def _neuron(m: Inside, n: Neuron) -> str:
    lines = []
    for value, sequence, place in n.strongest[:5]:
        row = m.sequences[sequence]
        before = "".join(m.word(t) for t in row[max(0, place - BEFORE) : place])
        after = "".join(m.word(t) for t in row[place + 1 : place + 1 + AFTER])
        lines.append(
            f'<div class="context">{value:.2f} {escape(before)}<mark>{escape(m.word(row[place]))}</mark>'
            f"{escape(after)}</div>"
        )
    about = f"{n.selectivity:.1f} deviations above its mean, active at {n.active:.0%} of tokens"
    return f"<p><b>{n.part} {n.index}</b> <span class=soft>{about}</span></p>{''.join(lines)}"
