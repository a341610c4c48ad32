"""Build the embedded texts: the King James Bible and the Jargon File, from their Debian packages.

Run it only to check or renew what is committed: the same packages and the same liblzma give the same bytes. It needs
``apt-get install bible-kjv bible-kjv-text jargon-text``.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import lzma
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

from sharpness.data.byte_texts import END_OF_DOCUMENT, FILE
from sharpness.errors import InputError
from sharpness.files import write_atomically

TARGET = Path(__file__).resolve().parents[2] / "sharpness" / "data"
JARGON = Path("/usr/share/doc/jargon-text/jargon.txt.gz")
LAST_BOOK = "Lam"
"""The books from Genesis to this one are taken: what fits in 1 MB, packed, beside the Jargon File."""
SOURCES = {
    "bible -f Gen1:1-Rev22:21": "cd45f0c9cedab8e4439bd6486c8952c77cc8b0ecc5d1f6ae3513f2039f47229d",
    str(JARGON): "40dfb4b98191a670a09a183d5798d50f243d23fdbd1495dcc0aca2ce5895ba97",
}
"""SHA-256 of the whole texts as they came, unpacked, from bible-kjv-text 4.38 and jargon-text 4.4.7-4.1."""
VERSE = re.compile(r"(?P<book>\d?[A-Za-z]+)(?P<chapter>\d+):\d+ (?P<text>.*)")
HEADWORD = re.compile(r"^   :[^:\n][^\n]*:", re.MULTILINE)
PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "´": "'", "—": "--", "−": "-", "·": "*", "•": "*"})


def checked(name: str, content: bytes) -> str:
    """Return the text of a source; :class:`InputError` unless it has the content that the committed files come from."""
    found = hashlib.sha256(content).hexdigest()
    if found != SOURCES[name]:
        raise InputError(f"{name}: expected a text with SHA-256 {SOURCES[name]}, got {found}: use Debian's version")
    return content.decode()


def read_bible() -> str:
    """Return the whole Bible, a verse in each line; :class:`InputError` where its packages are missing."""
    command, _ = SOURCES
    try:
        content = subprocess.run(command.split(), stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(
            f"expected the text of {command!r}, got {error}: apt-get install bible-kjv bible-kjv-text"
        ) from None
    return checked(command, content)


def chapters(bible: str) -> list[str]:
    """Return the chapters from Genesis to the last book, a verse in each line, without their numbers."""
    verses = [match for line in bible.splitlines() if (match := VERSE.fullmatch(line))]
    books = list(dict.fromkeys(verse["book"] for verse in verses))
    kept = set(books[: books.index(LAST_BOOK) + 1])
    groups = itertools.groupby((v for v in verses if v["book"] in kept), key=lambda v: (v["book"], v["chapter"]))
    return ["".join(f"{verse['text']}\n" for verse in group) for _, group in groups]


def read_jargon() -> str:
    """Return the Jargon File; :class:`InputError` where its package is missing."""
    try:
        content = gzip.decompress(JARGON.read_bytes())
    except OSError as error:
        raise InputError(f"expected {JARGON}, got {error.strerror}: apt-get install jargon-text") from None
    return checked(str(JARGON), content)


def entries(jargon: str) -> list[str]:
    """Return the entries of the lexicon in ASCII, a paragraph in each line; those with tables and figures left out."""
    jargon = jargon.replace("\N{NO-BREAK SPACE}", " ")
    lexicon = jargon[: jargon.index("\nAppendix A. Hacker Folklore")]
    starts = [match.start() for match in HEADWORD.finditer(lexicon)]
    whole = [lexicon[start:end] for start, end in itertools.pairwise([*starts, len(lexicon)])]
    return [as_paragraphs(entry) for entry in whole if not re.search("[─-╿]|^ {4,}", entry, re.MULTILINE)]


def as_paragraphs(entry: str) -> str:
    """Return an entry with a paragraph in each line, in ASCII.

    >>> as_paragraphs("   :foo: n.\\n\\n   1. A “sample”\\n   name.\\n\\n")
    'foo: n.\\n1. A "sample" name.\\n'
    """
    paragraphs = [" ".join(piece.split()) for piece in entry.split("\n\n")]
    text = "".join(f"{paragraph}\n" for paragraph in paragraphs if paragraph).removeprefix(":")
    return unicodedata.normalize("NFKD", text.translate(PLAIN)).encode("ascii", "ignore").decode()


def main() -> int:
    """Write the two files, print the size and the SHA-256 of each and of its content, and return the exit code."""
    try:
        texts = {"kjv": chapters(read_bible()), "jargon": entries(read_jargon())}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, documents in texts.items():
        content = END_OF_DOCUMENT.join(document.encode("ascii") for document in documents)
        packed = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
        (TARGET / name).mkdir(exist_ok=True)
        write_atomically(TARGET / name / FILE, packed)
        print(f"{name}/{FILE}: {len(documents)} documents, {len(packed)} bytes, ", end="")
        print(f"SHA-256 {hashlib.sha256(packed).hexdigest()}, ", end="")
        print(f"unpacked {len(content)} bytes, {hashlib.sha256(content).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
