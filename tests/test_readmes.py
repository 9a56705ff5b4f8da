"""Every command, path, link and example that a README shows is real."""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import importlib.util
import itertools
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

from nas.study.analysis.selection import PICKS
from nas.study.config import SamplerSettings

REPOSITORY = Path(__file__).resolve().parents[1]
ROOTS = ("nas", "search_spaces", "studies", "tests", ".ci")
DOCUMENTS = sorted(
    {
        path.resolve().relative_to(REPOSITORY)
        for path in [*REPOSITORY.glob("*.md"), *(doc for root in ROOTS for doc in (REPOSITORY / root).rglob("*.md"))]
    }
)
SAMPLERS = SamplerSettings.model_json_schema()["properties"]["name"]["enum"]
OTHER_PROGRAMS_FLAGS = {"--nproc-per-node", "--array", "--gres", "--signal"}
"""Flags of torchrun and sbatch that the documents mention."""

NO_COMMANDS = {"hourglass-nas people"}
"""Code that looks like a command line and is none: the format attribute of a packed file."""

# Shell operators and redirections, after which another command begins.
_OPERATORS = re.compile(r"[&;|<>()]+")
_PLACEHOLDER = re.compile(r"[A-Z]{3,}|…")
_CODE_SPAN = re.compile(r"(`+)(.+?)\1")
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced or indented block: the language of its fence (empty if none), its first line's number, its lines."""

    language: str
    line: int
    lines: tuple[str, ...]


def split_document(text: str) -> tuple[list[Block], list[tuple[int, str]]]:
    """Split Markdown into code blocks and lines of prose, with line numbers from 1."""
    blocks: list[Block] = []
    prose: list[tuple[int, str]] = []
    lines = text.splitlines()
    start = 0
    while start < len(lines):
        line = lines[start]
        end = start + 1
        if fence := re.match(r"\s*(```+|~~~+)\s*([\w+-]*)", line):
            while end < len(lines) and not lines[end].strip().startswith(fence[1]):
                end += 1
            blocks.append(Block(fence[2], start + 2, tuple(lines[start + 1 : end])))
            end += 1
        elif re.match(r" {4}\s*\S", line) and (start == 0 or not lines[start - 1].strip()):
            while end < len(lines) and (not lines[end].strip() or lines[end].startswith("    ")):
                end += 1
            blocks.append(Block("", start + 1, tuple(lines[start:end])))
        else:
            prose.append((start + 1, line))
        start = end
    return blocks, prose


def shell_commands(lines: Sequence[str]) -> Iterator[list[str]]:
    """The simple commands of shell lines: continuations joined, comments dropped, cut at ``&&``, ``;``, ``|``."""
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    for line in joined.splitlines():
        lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # an unbalanced quote: no shell
            continue
        command: list[str] = []
        for word in [*words, ";"]:
            if _OPERATORS.fullmatch(word):
                if command:
                    yield command
                command = []
            else:
                command.append(word)


@functools.cache
def _command(module: str) -> Any:
    """The command line of a module: its ``app``, or else its ``main``, as the stress scripts have it."""
    found = importlib.import_module(module)
    app = getattr(found, "app", None)
    if app is None:
        app = typer.Typer()
        app.command()(found.main)
    return typer.main.get_command(app)


def parse(module: str, words: Sequence[str]) -> str | None:
    """Why the command line of a module refuses these arguments, or None. Nothing runs, callbacks neither."""
    command = _command(module)
    words = list(words)
    subcommands = getattr(command, "commands", None)
    if subcommands is not None and not {"--help", "--version"} & set(words[:1]):
        if not words or words[0] not in subcommands:
            return f"{module} has no subcommand {words[0] if words else '(none)'}"
        command = subcommands[words.pop(0)]
    command = copy.copy(command)
    command.params = [copy.copy(parameter) for parameter in command.params]
    for parameter in command.params:
        parameter.callback = None
    if words in (["--help"], ["--version"]):
        return None if words[0] in flags_of(module) else f"{module} has no flag {words[0]}"
    try:
        command.make_context(module, words)
    except typer.BadParameter.__mro__[2] as error:  # ClickException, which versions of typer keep in different places
        return f"{module}: {getattr(error, 'format_message', error.__str__)()}"
    return None


def flags_of(module: str) -> set[str]:
    """Every flag of a module's command line, subcommands included."""
    command = _command(module)
    found = {"--help"}
    for one in [command, *getattr(command, "commands", {}).values()]:
        for parameter in one.params:
            found |= {*parameter.opts, *parameter.secondary_opts}
    return found


def nas_commands() -> list[str]:
    """Names of the modules ``nas.NAME`` that are commands."""
    modules = sorted(path.stem for path in (REPOSITORY / "nas").glob("*.py"))
    return [name for name in modules if re.search(r"^app\b.*=", (REPOSITORY / "nas" / f"{name}.py").read_text(), re.M)]


def check_values(module: str, words: Sequence[str], names: set[str]) -> Iterator[str]:
    """Complaints about values that a command would refuse only when it runs."""
    published = set(tomllib.loads((REPOSITORY / "search_spaces/published.toml").read_text()))
    allowed: dict[str, set[str]] = {
        "--pick": set(PICKS),
        "--sampler": set(SAMPLERS),
        "--study": names | {path.stem for path in (REPOSITORY / "studies").glob("*.toml")},
        "--space": names | {path.stem for path in (REPOSITORY / "search_spaces").glob("*.toml")},
        "--policy": {f"{sampler}{rule}" for sampler in SAMPLERS for rule in ("", "+reach", "+halving")},
    }
    if module != "nas.describe":
        allowed["--published"] = published
    for flag, value in itertools.pairwise(words):
        if flag in allowed and value not in allowed[flag] and not value.endswith(".toml") and not value.isupper():
            yield f"{flag} {value}: not one of {', '.join(sorted(allowed[flag]))}"
    if module == "nas.describe" and words and re.fullmatch(r"\w+", words[0]) and words[0] not in published:
        yield f"nas.describe {words[0]}: no published network"


def check_command(words: list[str], names: set[str]) -> Iterator[str]:
    """Complaints about one simple command; none for programs that are not ours."""
    while words and (re.match(r"\w+=", words[0]) or words[0] in ("nice", "srun")):
        words = words[1:]
    words = [word for word in words if not word.startswith("…")]
    module, rest = "", words
    match words:
        case ["python" | "python3", "-m", name, *rest] if name.startswith("nas."):
            module = name
        case ["torchrun", *launch]:
            module, *rest = launch[launch.index("-m") + 1 :] if "-m" in launch else [""]
        case ["hourglass-nas", name, *rest] if not name.isupper() and not name.startswith("--"):
            module = f"nas.{name}"
            scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"].get("scripts", {})
            if "hourglass-nas" not in scripts:
                yield "hourglass-nas is no script of pyproject.toml"
        case ["prepare", _, *_]:
            module, rest = "nas.prepare", words[1:]
        case ["python" | "python3", script, *rest] if script.startswith("tests/"):
            if not (REPOSITORY / script).is_file():
                yield f"{script}: no such script"
                return
            module = Path(script).stem
        case ["sbatch", *_] if any(word.endswith("search.sbatch") for word in words):
            script = next(i for i, word in enumerate(words) if word.endswith("search.sbatch"))
            module, rest = "nas.search", words[script + 1 :]
        case ["pip", "install", *_]:
            extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            for word in words:
                if wanted := re.search(r"^\.\[(.*)\]", word):
                    unknown = set(wanted[1].split(",")) - set(extras)
                    yield from (f"pip install: no extra {name}" for name in sorted(unknown))
    if module.isupper() or module.endswith(".COMMAND"):
        return
    if module.startswith("nas.") and module.removeprefix("nas.") not in nas_commands():
        yield f"{module}: no such command"
    elif module:
        problem = parse(module, rest)
        if problem:
            yield problem
        else:
            yield from check_values(module, rest, names)
    for word in words:
        if word.startswith(tuple(f"{root}/" for root in ROOTS)) and not exists(word, REPOSITORY):
            yield f"{word}: no such file"


def exists(path: str, folder: Path) -> bool:
    """Whether a path, or a file that its pattern matches, is in a folder; always where it has a placeholder."""
    if _PLACEHOLDER.search(Path(path).stem) and not path.endswith(".md"):
        return True
    if "*" in path:
        return any(folder.glob(path))
    return (folder / path).exists()


def is_importable(name: str) -> bool:
    """Whether a dotted name is a module of ours, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if importlib.util.find_spec(".".join(parts[:1])) is None:
            return False
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute, None)
        return found is not None
    return False


def check_code_span(span: str, folder: Path, names: set[str]) -> Iterator[str]:
    """Complaints about `code` within prose or a table: a command, flags, a path or a dotted name."""
    words = span.split()
    if span in NO_COMMANDS:
        return
    if re.fullmatch(r"python -m nas\.\w+", span):  # named without arguments
        if words[-1].removeprefix("nas.") not in [*nas_commands(), "COMMAND"]:
            yield f"{words[-1]}: no such command"
    elif (name := words[0].removeprefix("nas.")) in nas_commands() and len(words) > 1:
        # `nas.report --html`, `prepare check`: flags without their values, subcommands without their arguments.
        known = flags_of(f"nas.{name}")
        unknown = [word for word in words if word.startswith("--") and word not in known]
        yield from (f"nas.{name} has no flag {word}" for word in unknown)
        subcommands = getattr(_command(f"nas.{name}"), "commands", {words[1]: None})
        if words[1] not in subcommands:
            yield f"nas.{name} has no subcommand {words[1]}"
    elif span.startswith("--"):
        known = set().union(*(flags_of(f"nas.{name}") for name in nas_commands())) | OTHER_PROGRAMS_FLAGS
        flags = [word.split("=")[0] for word in re.split(r"[\s,]+", span) if word.startswith("--")]
        yield from (f"no command has the flag {flag}" for flag in flags if flag not in known)
    elif re.fullmatch(r"nas(\.\w+)+", span):
        if not is_importable(span):
            yield f"{span}: no such module or name"
    elif re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*/?", span) and (
        span.split("/")[0] in ROOTS or re.search(r"\w\.(py|sbatch)$|[A-Z]\.md$", span)
    ):
        if not exists(span, REPOSITORY) and not exists(span, folder):
            yield f"{span}: no such file"
    else:
        for command in shell_commands([span]):
            yield from check_command(command, names)


def check_block(block: Block, folder: Path, names: set[str]) -> Iterator[tuple[int, str]]:
    """Complaints about a block: TOML and Python must parse and import; shell commands and listed files must exist."""
    text = textwrap.dedent("\n".join(block.lines))
    if block.language == "toml":
        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            yield block.line, f"not TOML: {error}"
    elif block.language == "python":
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            yield block.line, f"not Python: {error}"
            return
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nas":
                for alias in node.names:
                    if not is_importable(f"{node.module}.{alias.name}"):
                        yield block.line + node.lineno - 1, f"{node.module}.{alias.name}: no such module or name"
    else:
        for command in shell_commands(block.lines):
            yield from ((block.line, problem) for problem in check_command(command, names))
        for number, line in enumerate(block.lines, block.line):
            listed = re.match(
                r"\s*((?:[\w.*-]+/)*[\w.*-]+\.py|(?:[\w.*-]+/)+)(?=\s\s|$)", line
            )  # a file and its purpose
            if listed and listed[1].split("/")[0] not in ROOTS and not exists(listed[1], folder):
                yield number, f"{listed[1]}: no such file"


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = [line.lstrip("#").strip() for _, line in split_document(text)[1] if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def check_link(target: str, text: str, folder: Path) -> str | None:
    """Why a link leads nowhere, or None. Addresses of other sites are not visited."""
    if re.match(r"[a-z]+:", target):
        return None
    path, _, anchor = unquote(target).partition("#")
    if path and not (folder / path).exists():
        return f"link to {target}: no such file"
    if anchor and (not path or path.endswith(".md")):
        other = (folder / path).read_text(encoding="utf-8") if path else text
        if anchor not in anchors(other):
            return f"link to {target}: no such heading"
    return None


def complaints(text: str, folder: Path = REPOSITORY) -> list[str]:
    """All that is wrong with a document in a folder, each with its line."""
    blocks, prose = split_document(text)
    # Studies that the document itself makes.
    names = set(re.findall(r"--name (\S+)", text))
    found = [f"{line}: {problem}" for block in blocks for line, problem in check_block(block, folder, names)]
    for number, line in prose:
        for _, span in _CODE_SPAN.findall(line):
            found += [f"{number}: {problem}" for problem in check_code_span(span.strip(), folder, names)]
        for target in _LINK.findall(_CODE_SPAN.sub("", line) if "](" not in line else line):
            problem = check_link(target, text, folder)
            found += [f"{number}: {problem}"] if problem else []
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_what_a_document_shows_is_real(document: Path) -> None:
    path = REPOSITORY / document
    assert complaints(path.read_text(encoding="utf-8"), path.parent) == []


def test_the_readme_is_short_and_shows_every_command() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    shown = {m[1] for m in re.finditer(r"python -m nas\.(\w+)", text)}
    assert shown >= set(nas_commands())
    assert "pip install -c constraints.txt -e '.[test]' && python -m pytest" in text


def test_the_documents_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "nas/data/README.md", "studies/records/README.md"} <= {
        str(document) for document in DOCUMENTS
    }


GOOD = """
# A heading of `two` words

    $ OMP_NUM_THREADS=1 python -m nas.search --trials 50 && python -m nas.report   # and a comment --with-a-flag
    python -m nas.search --study mpii --data mpii.h5 --trials 200 \\
        --storage postgresql+psycopg://me@host/nas --name mine
    torchrun --nproc-per-node 2 -m nas.retrain --study mine --pick knee
    sbatch --array=0-7 studies/cluster/search.sbatch --study mpii --trials 200

1. An item:

       python -m nas.prepare coco --images i --annotations a.json --skeleton s.toml --out people.h5

```
python tests/stress/failures.py --runs 20
```

| command | purpose |
|---|---|
| `python -m nas.describe hg2 --latency` | costs (`describe --space levels`, `nas.report --html`, `--max-params`) |
| `prepare check people.h5` | `nas/training/loop.py`, `nas.training.loop.train`, `studies/*.toml` |

[A link](studies/records/README.md), [another](#a-heading-of-two-words), [a third](https://example.org/none).
"""


def test_a_good_document_has_no_complaints() -> None:
    assert complaints(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("nas.search --trials 50", "nas.search --trails 50", "4: nas.search: No such option: --trails"),
        ("nas.search --trials 50", "nas.search --trials many", "4: nas.search: "),
        ("nas.search --trials 50", "nas.serach --trials 50", "4: nas.serach: no such command"),
        ("nas.search --trials 50", "nas.search --trials 50 more", "4: nas.search: "),
        ("&& python -m nas.report ", "&& python -m nas.report --pikc knee ", "4: nas.report: No such option: --pikc"),
        ("--storage postgresql", "--store postgresql", "4: nas.search: No such option: --store"),
        ("--study mine", "--study yours", "4: --study yours: not one of"),
        ("--pick knee", "--pick keen", "4: --pick keen: not one of"),
        ("-m nas.retrain", "-m nas.retain", "4: nas.retain: no such command"),
        ("search.sbatch --study", "search.sbatch --studie", "4: nas.search: No such option: --studie"),
        ("cluster/search.sbatch", "clusters/search.sbatch", "4: studies/clusters/search.sbatch: no such file"),
        ("--skeleton s.toml ", "", "12: nas.prepare: Missing option"),
        ("prepare coco", "prepare cocoa", "12: nas.prepare has no subcommand cocoa"),
        ("--runs 20", "--run20", "15: failures: No such option: --run20"),
        ("stress/failures.py", "stress/failure.py", "15: tests/stress/failure.py: no such script"),
        ("describe hg2", "describe hg22", "20: nas.describe hg22: no published network"),
        ("describe --space", "describe --spice", "20: nas.describe has no flag --spice"),
        ("nas.report --html", "nas.report --htlm", "20: nas.report has no flag --htlm"),
        ("`--max-params`", "`--max-param`", "20: no command has the flag --max-param"),
        ("prepare check", "prepare chek", "21: nas.prepare has no subcommand chek"),
        ("nas/training/loop.py", "nas/training/lop.py", "21: nas/training/lop.py: no such file"),
        ("training.loop.train", "training.loop.trian", "21: nas.training.loop.trian: no such module or name"),
        ("studies/*.toml", "studies/*.yaml", "21: studies/*.yaml: no such file"),
        ("records/README.md", "record/README.md", "23: link to studies/record/README.md: no such file"),
        ("records/README.md", "records/README.md#no", "23: link to studies/records/README.md#no: no such heading"),
        ("#a-heading-of", "#a-heading-with", "23: link to #a-heading-with-two-words: no such heading"),
        ("```\npython tests", "```python\nimport\npython tests", "15: not Python"),
        ("```\npython tests", "```python\nfrom nas.errors import No\n```\n\n```\npython tests", "15: nas.errors.No"),
        ("```\npython tests", "```toml\na = \n```\n\n```\npython tests", "15: not TOML"),
        (
            "```\npython tests",
            "```\nnas/train/  how it learns\n```\n\n```\npython tests",
            "15: nas/train/: no such file",
        ),
        (
            "```\npython tests",
            "```\npip install '.[tests]'\n```\n\n```\npython tests",
            "15: pip install: no extra tests",
        ),
    ],
)
def test_faults_are_noticed(old: str, new: str, complaint: str) -> None:
    assert old in GOOD
    found = complaints(GOOD.replace(old, new, 1))
    assert len(found) == 1
    assert found[0].startswith(complaint)
