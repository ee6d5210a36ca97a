"""README.md is true: its Python runs, its commands and links exist. So is the file tree of docs/architecture.md.

Its format, as far as these tests read it:

- Every block fenced as ```python runs, in order, in one namespace as one program, in a scratch folder that holds a copy
  of examples/. It must be done without the network.
- Every line of a ```bash or ```sh block that begins with `opensnac` or `make` names a command and options, or targets,
  that exist. Lines are not run.
- Every relative link and picture, [text](path) or <img src="path">, leads to a file or folder of the repository.
- In docs/architecture.md, under a heading `Files` (of any level), the first block fenced as ```text is the file tree. A
  line is an entry: two spaces for each folder it lies in, the name, a folder's with a final slash, after two or more
  spaces what it is. Every entry exists, and every folder of the package that holds sources has one.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer.main

from opensnac import cli

REPOSITORY = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)


def blocks(text: str, *languages: str) -> list[tuple[int, str]]:
    """Line number of the first line and content of every block fenced as one of `languages`."""
    found = [match for match in BLOCK.finditer(text) if match[1] in languages]
    return [(text.count("\n", 0, match.start(2)) + 1, match[2]) for match in found]


def run_python(text: str, name: str = "README.md") -> None:
    """Run all Python blocks as one program, whose errors name the lines of the text."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, code in blocks(text, "python"):
        exec(compile("\n" * (line - 1) + code, name, "exec"), namespace)


def unknown_commands(text: str) -> list[str]:
    """Commands, options and targets of `opensnac` and `make` in shell blocks that do not exist."""
    commands = typer.main.get_group(cli.app).commands  # type: ignore[attr-defined]
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    unknown = []
    for words in [
        shlex.split(line, comments=True)
        for _, code in blocks(text, "bash", "sh")
        for line in code.replace("\\\n", " ").splitlines()
    ]:
        if words[:1] == ["make"]:
            targets = [word for word in words[1:] if "=" not in word]
            unknown += [f"make {word}" for word in targets if not re.search(rf"^{word}:", makefile, re.MULTILINE)]
        elif words[:1] == ["opensnac"] and words[1].startswith("-"):
            unknown += [word for word in words[1:] if word not in ("--help", "-h", "--version", "--install-completion")]
        elif words[:1] == ["opensnac"] and words[1] not in commands:
            unknown.append(f"opensnac {words[1]}")
        elif words[:1] == ["opensnac"]:
            command = commands[words[1]]
            if (within := getattr(command, "commands", None)) is not None:
                if words[2] not in within:
                    unknown.append(f"opensnac {words[1]} {words[2]}")
                    continue
                command = within[words[2]]
            parameters = command.params
            known = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
            used = [word.partition("=")[0] for word in words[2:] if word.startswith("-") and word != "-"]
            unknown += [f"opensnac {words[1]} {option}" for option in used if option not in {*known, "--help", "-h"}]
    return unknown


def broken_links(text: str) -> list[str]:
    """Relative links and pictures whose target is missing."""
    links = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", BLOCK.sub("", text))
    paths = [(markdown or html).partition("#")[0] for markdown, html in links]
    return [path for path in paths if path and "://" not in path and not (REPOSITORY / path).exists()]


def tree(text: str) -> list[str]:
    """Paths that the file tree lists; folders end in a slash."""
    section = re.search(r"^#+ Files\s*$(.*)", text, re.MULTILINE | re.DOTALL)
    assert section, "expected a heading `Files`"
    listed = blocks(section[1], "text")
    assert listed, "expected a ```text block under the heading `Files`"
    paths: list[str] = []
    folders: list[str] = []
    for line in filter(str.strip, listed[0][1].splitlines()):
        entry = re.match(r"( *)(\S+)(?:  +\S.*)?$", line)
        assert entry, f"{line!r} is no entry: a name, then two or more spaces and what it is"
        indent, name = entry.groups()
        depth = len(indent) // 2
        assert len(indent) == 2 * depth <= 2 * len(folders), f"{line!r} is not indented by two spaces a folder"
        folders = folders[:depth]
        paths.append("".join(folders) + name)
        if name.endswith("/"):
            folders.append(name)
    return paths


def packages() -> set[str]:
    """The folders of the package with sources, which the tree must list."""
    found = {path.parent for path in (REPOSITORY / "opensnac").rglob("*") if path.suffix in (".py", ".c")}
    return {f"{folder.relative_to(REPOSITORY)}/" for folder in found}


@pytest.fixture(scope="module")
def readme() -> str:
    return (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_python_of_the_readme_runs(readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, text in {"README.md": readme, "docs/index.md": (REPOSITORY / "docs/index.md").read_text("utf-8")}.items():
        assert blocks(text, "python")
        run_python(text, name)


def test_commands_of_the_readme_exist(readme: str) -> None:
    assert blocks(readme, "bash", "sh")
    assert unknown_commands(readme) == []


def test_links_of_the_readme_exist(readme: str) -> None:
    assert broken_links(readme) == []


def test_the_file_tree_is_complete() -> None:
    listed = tree((REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8"))
    assert sorted(set(listed)) == sorted(listed), "an entry twice"
    assert [path for path in listed if not (REPOSITORY / path).exists()] == []
    assert packages() - set(listed) == set()


def test_commands_of_every_page_exist() -> None:
    for page in sorted((REPOSITORY / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        assert unknown_commands(text) == [], page.name


# That these tests can fail


def test_a_broken_block_is_found_with_its_line() -> None:
    with pytest.raises(ZeroDivisionError) as error:
        run_python("# Title\n```python\na = 1\n```\n```text\nno python\n```\n```python\na / 0\n```\n")
    assert error.traceback[-1].lineno == 8  # counted from 0: line 9


def test_blocks_share_a_namespace(capsys: pytest.CaptureFixture[str]) -> None:
    run_python("```python\na = 1\n```\nwords\n```python\nprint(a + 1)\n```\n")
    assert capsys.readouterr().out == "2\n"


@pytest.mark.parametrize(
    ("line", "unknown"),
    [
        ("opensnac encode talk.wav -o talk.snac --mono  # a remark", []),
        ("opensnac decode - -o - --no-noise < a.snac | aplay", []),
        ("opensnac --version", []),
        ("opensnac endcode talk.wav", ["opensnac endcode"]),
        ("opensnac encode talk.wav --stereo", ["opensnac encode --stereo"]),
        ("opensnac --bare", ["--bare"]),
        ("make test PYTHON=python3.13", []),
        ("make love", ["make love"]),
        ("pip install -e .", []),
    ],
)
def test_an_unknown_command_is_found(line: str, unknown: list[str]) -> None:
    assert unknown_commands(f"```bash\n{line}\n```\n") == unknown


def test_a_broken_link_is_found() -> None:
    text = (
        '[a](LICENSE) [b](docs/none.md#part) [c](https://a.b/c) [d](#here) <img src="no.png">\n```text\n[e](x)\n```\n'
    )
    assert broken_links(text) == ["docs/none.md", "no.png"]


def test_a_tree_is_read_by_its_indentation() -> None:
    lines = ["a/  a folder", "  b.py   words", "  c/", "    d.py  more  words", "  e.py", "f.md"]
    text = "## Files\nwords\n```text\n" + "\n".join(lines) + "\n```\n```text\nanother\n```\n"
    assert tree(text) == ["a/", "a/b.py", "a/c/", "a/c/d.py", "a/e.py", "f.md"]


@pytest.mark.parametrize("lines", ["a/\n   b.py", "a.py\n  b.py", "a/\n    b.py", "a.py one space"])
def test_a_crooked_tree_is_refused(lines: str) -> None:
    with pytest.raises(AssertionError, match=r"two spaces a folder|two or more spaces"):
        tree(f"# Files\n```text\n{lines}\n```\n")
