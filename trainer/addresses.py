"""How an address is shown that may have a secret in it: postgresql://me:word@host/db, s3://id:secret@bucket,
...?access_key=..."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

MASK = "***"
SECRET = re.compile(r"(?i)\b([\w.-]*(?:password|passwd|pwd|secret|token|key|credential|sig|signature)[\w.-]*)=[^&#\s]+")


def masked(address: str) -> str:
    """The address without its secrets, for people and files."""
    return SECRET.sub(rf"\1={MASK}", re.sub(r"(?<=://)([^/@\s:]*):[^/@\s]*@", rf"\1:{MASK}@", address))


def scrubbed(text: str, address: str) -> str:
    """`text`, such as an error's, without the address's secrets, however they stand in it."""
    found = [m.split("=", 1)[1] for m in re.findall(r"(?:[?&])([^&#\s]+=[^&#\s]+)", address) if SECRET.match(m)]
    try:
        found.append(urlsplit(address).password or "")
    except ValueError:
        pass
    for secret in {part for word in found for part in (word, unquote(word)) if part}:
        text = text.replace(secret, MASK)
    return masked(text)
