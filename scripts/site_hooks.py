"""What the documentation site makes of the program itself: the reference of the command line, and the list of decisions."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aaclip_med.cli.main import build_parser

MARK = "<!-- every command -->"
WIDTH = 76


def on_config(config: Any) -> Any:
    """MkDocs asks: see ``complete_navigation``."""
    complete_navigation(config.nav, Path(config.docs_dir))
    return config


def complete_navigation(navigation: list[Any], docs: Path) -> None:
    """Put in what ``mkdocs.yml`` leaves out: every page of ``adr`` under Decisions, other pages at the top under Manual."""
    sections = {name: pages for entry in navigation if isinstance(entry, dict) for name, pages in entry.items()}
    listed = {page for page in navigation if isinstance(page, str)} | {page for pages in sections.values() for page in pages}
    sections["Decisions"] += sorted(f"adr/{path.name}" for path in docs.glob("adr/*.md"))
    sections["Manual"] += sorted(path.name for path in docs.glob("*.md") if path.name not in listed)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs asks: the mark in a page becomes the reference of the command line."""
    return markdown.replace(MARK, describe_commands()) if MARK in markdown else markdown


def describe_commands() -> str:
    """Markdown: a heading and the help of each command, as the parser has them."""
    commands = walk_commands(build_parser())
    return "\n\n".join(f"## {' '.join(one.prog.split())}\n\n```text\n{format_help(one)}\n```" for one in commands)


def walk_commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser itself, then those of its commands, and of theirs."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from walk_commands(command)


def format_help(parser: argparse.ArgumentParser) -> str:
    """The help text, ``WIDTH`` characters wide whatever the terminal."""
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=WIDTH)
    return parser.format_help().rstrip()
