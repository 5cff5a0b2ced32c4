"""Chromium, where there is one: a page at a width, light or dark, as a picture and measured."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

SMALL = 12.0
"""px: smaller is not read on a phone."""
MEASURE = """
const small=[],root=d.documentElement;f.style.height=root.scrollHeight+'px';
for(const e of d.querySelectorAll('body *')){
const own=[...e.childNodes].filter(n=>n.nodeType===3&&n.textContent.trim()).length;
if(!own||!e.getClientRects().length||e.closest('script,style,title'))continue;
const scale=e.getScreenCTM?Math.hypot(e.getScreenCTM().a,e.getScreenCTM().b):1;
const size=parseFloat(f.contentWindow.getComputedStyle(e).fontSize)*scale;
if(size<SMALL-.01)small.push(size.toFixed(1)+' '+e.tagName+' '+e.textContent.slice(0,30))}
const beyond=(p,q)=>p.left<q.left-1||p.right>q.right+1||p.top<q.top-1||p.bottom>q.bottom+1;
const parts=[...d.querySelectorAll('figure,figure>*,figcaption>*')];
const over=parts.filter(e=>e.scrollWidth>e.clientWidth+1&&e.clientWidth);
d.querySelectorAll('svg').forEach(s=>s.getClientRects().length&&over.push(...[...s.querySelectorAll('text')].filter(
e=>beyond(e.getBoundingClientRect(),(e.matches('.mark')?s.querySelector('.frame'):s).getBoundingClientRect()))));
const words=[...d.querySelectorAll('svg')].filter(s=>s.getClientRects().length).flatMap(s=>{
const t=[...s.querySelectorAll('text')].map(e=>[e.getBoundingClientRect(),e.textContent]);
return t.flatMap(([p,a],i)=>t.slice(i+1).filter(([q])=>Math.min(p.right,q.right)-Math.max(p.left,q.left)>1&&
Math.min(p.bottom,q.bottom)-Math.max(p.top,q.top)>3).map(([q,b])=>a+' | '+b))});
return {wide:root.scrollWidth,shown:root.clientWidth,high:root.scrollHeight,small,
over:over.map(e=>e.outerHTML.slice(0,160)),
words}
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a browser says of a page: px, and what is wrong with it."""

    wide: int
    shown: int
    high: int
    small: list[str]
    """Texts that are drawn smaller than SMALL."""
    over: list[str]
    """Parts of figures that scroll sideways or are cut off."""
    words: list[str]
    """Words of a chart that lie on each other."""


ASK = """
const f=document.querySelector('iframe'),d=f.contentDocument,out=document.createElement('pre');out.id='told';
out.textContent=JSON.stringify((()=>{SCRIPT})()||null);document.body.append(out)
"""


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no Chromium here")
    return found


class Browser:
    """folder: its profile and the pages that it is given."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.program = folder, chromium()

    def measured(self, page: str, width: int) -> Measured:
        return Measured(**self.asked(page, width, MEASURE))

    def asked(self, page: str, width: int, script: str) -> Any:
        """What `script` returns: f is the frame of the page, d its document."""
        dumped = self._run(self._framed(page, width, 1000, script), False, "--dump-dom", "--window-size=1500,1200")
        found = re.search(r'<pre id="told">(.*?)</pre>', dumped, re.DOTALL)
        assert found, dumped[-2000:]
        return json.loads(unescape(found[1]))

    def picture(self, page: str, width: int, high: int, dark: bool, path: Path) -> Path:
        size = f"--window-size={width},{min(high, 8000)}"
        self._run(self._framed(page, width, high), dark, f"--screenshot={path}", size)
        return path

    def _framed(self, page: str, width: int, high: int, script: str = "") -> Path:
        """In a frame of its own: a window is never narrower than some 500 px."""
        path, script = self.folder / "framed.html", ASK.replace("SCRIPT", script.replace("SMALL", str(SMALL)))
        frame = (
            f'<iframe style="border:0;width:{width}px;height:{high}px" srcdoc="{escape(page, quote=True)}"></iframe>'
        )
        head = "<!doctype html><body style='margin:0'>"
        path.write_text(f"{head}{frame}<script>addEventListener('load',()=>{{{script}}})</script></body>")
        return path

    def _run(self, page: Path, dark: bool, *flags: str) -> str:
        settled = ["--virtual-time-budget=2000", f"--user-data-dir={self.folder / 'profile'}", "--hide-scrollbars"]
        quiet = [
            "--no-first-run",
            "--disable-background-networking",
            f"--blink-settings=preferredColorScheme={int(not dark)}",
        ]
        command = [self.program, "--headless", "--no-sandbox", "--disable-gpu", *quiet, *settled, *flags, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0 and "CONSOLE" not in done.stderr, done.stderr
        return done.stdout
