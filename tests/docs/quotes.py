"""What the pages quote: links, and lines of shell in code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bundles/*/docs/*.md"), *ROOT.glob("slicer_module/**/*.md")]
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^\s*(```|~~~)(.*)")
PROGRAM = re.compile(r"(?:^|\s)(?:\S*/)?(?:aaclip-med|python3? -m aaclip_med)\s+(?=[a-z-])")
SHELL = ("", "bash", "sh", "shell", "console")


def list_links(page: Path) -> list[str]:
    """The targets of a page's links and pictures that lie in the repository."""
    text = re.sub(r"`[^`]*`", "", page.read_text(encoding="utf-8"))
    return [target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)]


def list_anchors(page: Path) -> set[str]:
    """What a page's headings are called in links, as GitHub and Python-Markdown make them for plain words."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def list_shell_lines(page: Path) -> Iterator[str]:
    """The lines of a page's code blocks of shell or of no language; continued ones are joined."""
    fence, language, pending = "", "", ""
    before_is_blank = True
    for line in page.read_text(encoding="utf-8").splitlines():
        mark = FENCE.match(line)
        if mark:
            fence, language = ("", "") if fence else (mark[1], mark[2].strip())
            continue
        is_indented = not fence and line.startswith("    ") and (before_is_blank or pending != "" or line[4:5] != " ")
        before_is_blank = not line.strip()
        if (fence and language in SHELL) or is_indented:
            pending += line.strip()
            if pending.endswith("\\"):
                pending = pending[:-1]
                continue
            yield pending
            pending = ""


def list_commands(page: Path) -> list[str]:
    """What follows ``aaclip-med`` in a page's lines of shell: options and arguments, as they are written."""
    found = []
    for line in list_shell_lines(page):
        for part in re.split(r"\s&&\s|\s\|\s|;\s", line):
            match = PROGRAM.search(part)
            if match:
                found.append(part[match.end() :])
    return found


def list_inline_commands(page: Path) -> list[str]:
    """The same of code within sentences, which is seldom whole."""
    text = re.sub(r"\s+", " ", page.read_text(encoding="utf-8"))
    return [code[match.end() :] for code in re.findall(r"`([^`]+)`", text) if (match := PROGRAM.match(code))]


def split_words(command: str) -> list[str]:
    """A command as the shell splits it: without comments, ``...``, what is redirected; ``$(...)`` counts as one word."""
    plain = re.sub(r"\"?\$\([^()]*(?:\([^()]*\)[^()]*)*\)\"?", "SUBSTITUTED", command)
    return [word for word in shlex.split(plain, comments=True) if word not in ("...", "…")]
