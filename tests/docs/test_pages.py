"""What README and documentation say exists, does: files, headings, commands, options."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from aaclip_med.cli.main import build_parser
from scripts.site_hooks import complete_navigation, describe_commands, walk_commands
from tests.docs.quotes import (
    PAGES,
    ROOT,
    list_anchors,
    list_commands,
    list_inline_commands,
    list_links,
    list_shell_lines,
    split_words,
)

PACKED = {"adr/0003-calibration.md"}
"""Links of the bundle's model card, which is the one of docs: they hold there, and `pack` replaces them."""
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
PARTS = "aaclip_med|benchmarks|bundles|docs|notebooks|scripts|slicer_module|tests"


def find_command(words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser of the command, or of its action, that ``words`` begin with, and the words behind it."""
    parser, rest = build_parser(), list(words)
    while actions := [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]:
        if not rest or rest[0].startswith("-"):
            break
        assert rest[0] in actions[0].choices, f"no command '{rest[0]}'"
        parser = actions[0].choices[rest.pop(0)]
    return parser, rest


def read_settings() -> dict[str, Any]:
    """What ``mkdocs.yml`` says."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    return settings


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for link in list_links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in list_anchors(target)):
            broken.append(link)
    assert not set(broken) - (PACKED if page.parts[-4:-3] == ("bundles",) else set())


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_quoted_commands_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for command in list_commands(page):
        words = split_words(command)
        try:
            if re.search(r"(^|\s)(\.\.\.|…)(\s|$)", command):
                _check_options(words)
            else:
                build_parser().parse_args(words)
        except SystemExit as ended:
            if ended.code:
                wrong.append(f"{command}: {capsys.readouterr().err.splitlines()[-1]}")
        except AssertionError as error:
            wrong.append(f"{command}: {error}")
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_within_sentences_name_commands_and_options_that_exist(page: Path) -> None:
    for command in list_inline_commands(page):
        _check_options(split_words(command))


def _check_options(words: list[str]) -> None:
    if words and words[0].isupper():  # `aaclip-med COMMAND --help`
        return
    parser, rest = find_command(words)
    unknown = {word.split("=")[0] for word in rest if word.startswith("--")} - set(parser._option_string_actions)
    assert not unknown, f"{parser.prog} has no {', '.join(sorted(unknown))}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_of_the_repository_named_in_commands_exist(page: Path) -> None:
    named = [path for line in list_shell_lines(page) for path in re.findall(rf"(?<![\w./-])(?:{PARTS})/[\w./-]+", line)]
    assert not [path for path in named if not (ROOT / path).exists()]


def test_every_page_is_in_the_site_s_navigation_once() -> None:
    navigation = read_settings()["nav"]
    complete_navigation(navigation, ROOT / "docs")
    sections = [pages for entry in navigation if isinstance(entry, dict) for pages in entry.values()]
    listed = [page for page in navigation if isinstance(page, str)] + [page for pages in sections for page in pages]
    assert sorted(listed) == sorted(path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md"))


def test_pages_of_the_reference_name_modules_that_exist() -> None:
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            place = ROOT / name.replace(".", "/")
            assert place.is_dir() or place.with_suffix(".py").is_file(), f"{page.name}: {name}"


def test_the_reference_of_the_command_line_has_every_option_of_every_command() -> None:
    text = describe_commands()
    for parser in walk_commands(build_parser()):
        section = text.split(f"## {parser.prog}\n")[1].split("\n## ")[0]
        assert all(option in section for option in parser._option_string_actions)


def test_gallery_shows_every_picture_that_its_script_made() -> None:
    text = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert set(re.findall(r"images/gallery/([\w-]+\.png)", text)) == {
        path.name for path in ROOT.glob("docs/images/gallery/*.png")
    }


def test_settings_of_the_site_name_hooks_that_exist() -> None:
    assert all((ROOT / hook).is_file() for hook in read_settings()["hooks"])
