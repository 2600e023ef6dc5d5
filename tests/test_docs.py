"""What the documents promise is what there is."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from repertory.cli.shared import app
from repertory.config.file import parse_file
from repertory.reports.diagrams import ladder_page
from repertory.reports.diagrams import main as draw

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its full name."""
    todo: list[tuple[str, Any]] = [("repertory", typer.main.get_command(app))]
    while todo:
        name, command = todo.pop()
        inner = getattr(command, "commands", {})
        todo += [(f"{name} {word}", one) for word, one in inner.items()]
        if not inner:
            yield name, command


def test_the_readmes_first_lines_install_and_run() -> None:
    top = "\n".join(README.splitlines()[:30])
    assert "make setup" in top
    assert ".venv/bin/repertory serve" in top
    assert "/v1/chat/completions" in top


def test_the_readmes_configuration_is_one(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    for path in re.findall(r"path: (\S+)", text):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    found = parse_file(text, "README.md", tmp_path)
    assert [model.name for model in found.models] == ["coder", "writer"]
    assert found.models[0].is_pinned
    assert found.models[1].context_tokens == 16384
    assert found.memory_bytes == 12 * 2**30


def test_ci_runs_what_the_readme_says() -> None:
    script = (ROOT / ".ci/run").read_text().splitlines()
    assert script[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in script
    development = README.partition("## Development")[2]
    (command,) = re.findall(r"^```\n(.*?)\n```", development, re.DOTALL | re.MULTILINE)
    assert script[-1] == command
    assert (ROOT / ".ci/run").stat().st_mode & 0o100


@pytest.mark.parametrize(("name", "command"), sorted(commands()), ids=lambda each: str(each))
def test_every_command_is_in_the_readme_and_has_help(name: str, command: Any) -> None:
    assert f"`{name}" in README
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{name} {parameter.opts}"


def test_every_option_of_serve_is_in_the_readme() -> None:
    (row,) = [line for line in README.splitlines() if line.startswith("| `repertory serve")]
    (serve,) = [command for name, command in commands() if name == "repertory serve"]
    options = {each.opts[0] for each in serve.params if each.opts[0].startswith("--")}
    assert options <= set(re.findall(r"--[a-z-]+", row)) | {"--help"}


def test_make_help_lists_every_target() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    listed = re.findall(r"^  make (\S+) +\S", shown, re.MULTILINE)
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    targets = re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)
    assert sorted(listed) == sorted(phony.split()) == sorted(targets)
    assert len(listed) <= 12
    for name in re.findall(r"`make ([a-z-]+)", README + ARCHITECTURE):
        assert name in listed


def test_the_diagrams_are_what_the_tables_say(tmp_path: Path) -> None:
    assert (ROOT / "docs/ladder.md").read_text() == ladder_page(), "run: make docs"
    page = tmp_path / "ladder.md"
    assert draw([str(page), "--check"]) == 1
    assert draw([str(page)]) == 0
    assert draw([str(page), "--check"]) == 0
    page.write_text(page.read_text().replace("stage", "steal"))
    assert draw([str(page), "--check"]) == 1


def test_architecture_names_every_room_and_no_other() -> None:
    assert len(ARCHITECTURE.splitlines()) <= 150
    package = ROOT / "src" / "repertory"
    rooms = {f"{init.parent.name}/" for init in package.glob("*/__init__.py")}
    table = ARCHITECTURE.partition("## Rooms")[2].partition("## ")[0]
    assert set(re.findall(r"^\| `(\S+)` \|", table, re.MULTILINE)) == rooms


def test_every_path_and_link_in_the_documents_leads_somewhere() -> None:
    rooms = (
        "config|gateway|reports|bench|live|sim|engines|fleet|traces|core|policy|perf|domain|testing"
    )
    for path in re.findall(rf"`((?:{rooms})/[\w/.]*)`", ARCHITECTURE):
        assert (ROOT / "src" / "repertory" / path).exists(), path
    for page in (ROOT / "README.md", ROOT / "ARCHITECTURE.md", *ROOT.glob("docs/**/*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_decision_record_is_in_the_index() -> None:
    records = {path.name for path in (ROOT / "docs/decisions").glob("*.md")} - {"README.md"}
    index = (ROOT / "docs/decisions/README.md").read_text()
    assert set(re.findall(r"\]\((\S+\.md)\)", index)) == records


def test_no_tracked_file_knows_the_machine_that_it_was_written_on() -> None:
    """Nor a registry's host, nor megabytes."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    places = re.compile(
        rb"(?<![\w.:~])/(?:work|home|root|tmp|opt)/\w|files\.pythonhosted|find-links /"
    )
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    for path in filter(Path.exists, paths):
        content = path.read_bytes()
        assert len(content) < 2**20, path
        assert path == Path(__file__) or not places.search(content), path
