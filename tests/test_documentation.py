"""The documentation names what exists: modules, folders, links, anchors, targets, versions."""

import re
import subprocess
import tomllib

import pytest

from tests.conftest import ROOT
from tests.test_architecture import ALLOWED, STAGES, modules

MAP = ROOT / "utils" / "README.md"
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        MAP,
        ROOT / "assets" / "tiny-sd" / "README.md",
        ROOT / "assets" / "tiny-sd3" / "README.md",
        *(ROOT / "docs").glob("*.md"),
    ]
)


def section(path, title):
    """The text below a heading of the second level, up to the next one."""
    return path.read_text().split(f"\n## {title}", 1)[1].split("\n## ", 1)[0]


def tree_lines():
    """(path below utils/, words) of every line of the map's tree; a folder's path ends in "/"."""
    block = re.search(r"```text\n(.*?)```", section(MAP, "The tree"), re.DOTALL)[1]
    folders = []
    for line in block.splitlines():
        indent, name, words = re.match(r"( *)(\S+)\s+(.+)", line).groups()
        folders = folders[: len(indent) // 2]
        yield "".join(folders) + name, words
        if name.endswith("/"):
            folders.append(name)


def anchors(path):
    """The anchors that a reader's links can name, as GitHub makes them from headings."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        yield words.replace(" ", "-")


def test_every_module_has_its_line_in_the_map_and_every_line_a_module():
    lines = [name for name, _ in tree_lines() if name.endswith(".py")]
    exist = [f"{name.replace('.', '/')}.py" for name, _ in modules()]
    assert sorted(set(exist) - set(lines)) == [], "modules without a line in utils/README.md"
    assert sorted(set(lines) - set(exist)) == [], "lines of utils/README.md without a module"
    assert len(lines) == len(set(lines))


def test_the_map_names_the_stages():
    named = {
        path.removesuffix(".py").replace("/", ".")
        for path, words in tree_lines()
        if words.startswith("STAGE:")
    }
    assert named == STAGES


def test_every_folder_has_its_line_in_the_map_and_lines_are_short():
    folders = {name for name, _ in tree_lines() if name.endswith("/")}
    exist = {
        f"{p.parent.relative_to(MAP.parent).as_posix()}/"
        for p in MAP.parent.rglob("__init__.py")
        if p.parent != MAP.parent
    }
    assert folders == exist
    block = re.search(r"```text\n(.*?)```", section(MAP, "The tree"), re.DOTALL)[1]
    assert [line for line in block.splitlines() if len(line) > 100] == []


def test_the_map_draws_the_imports_that_the_architecture_allows():
    drawn = {}
    rows = re.findall(
        r"^\| `(\w+)` \| (.+) \|$",
        section(MAP, "Which folder may import which"),
        re.MULTILINE,
    )
    for folder, others in rows:
        named = set(re.findall(r"`(\w+)`", others))
        drawn[folder] = set(ALLOWED) if others.startswith("all") else named | {folder, "runtime"}
    assert drawn == ALLOWED


def test_the_places_to_add_something_exist():
    named = re.findall(r"`([a-z_]+/[\w/]*(?:\.py)?)`", section(MAP, "Where do I add ..."))
    assert len(named) > 10
    missing = [p for p in named if not ((MAP.parent / p).exists() or (ROOT / p).exists())]
    assert missing == []


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_pictures_and_anchors_of_a_page_exist(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
        other = (path.parent / target).resolve() if target else path
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), f"{target}#{anchor}"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_of_this_repository_that_a_page_names_exist(path):
    if path.name == "CHANGELOG.md":
        return  # names modules by their old names
    text = path.read_text()
    for name in re.findall(r"(?<![\w/<.-])((?:utils|tests|benchmarks|assets)/[\w/.-]+\.\w+)", text):
        assert (ROOT / name).exists(), name


def test_the_readme_is_short_and_narrow():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 250
    assert [line for line in lines if len(line) > 120] == []


def prose(text):
    """(number, line) of a page outside fenced blocks, tables, indented blocks and pictures."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        fence = line.startswith("```")
        fenced ^= fence
        if not (fence or fenced or line.startswith(("|", "    ", "!["))):
            yield number, line


@pytest.mark.parametrize(
    # pages of the studies are generated
    "path",
    [
        p
        for p in PAGES
        if p.parent.name == "docs" and p.name not in ("study.md", "study_unconditional.md")
    ],
    ids=lambda p: p.name,
)
def test_lines_of_prose_have_at_most_120_columns(path):
    assert [number for number, line in prose(path.read_text()) if len(line) > 120] == []


def test_prose_is_what_stands_outside_blocks_tables_and_pictures():
    page = "a\n```bash\nb\n```\n- c\n| d |\n    e\n![f](g)\nh"
    assert list(prose(page)) == [(1, "a"), (5, "- c"), (9, "h")]


def test_the_index_of_the_documentation_lists_every_page():
    text = (ROOT / "docs" / "README.md").read_text()
    pages = {p.name for p in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {p for p in pages if f"]({p})" not in text} == set()


def test_the_readme_names_every_page_that_a_reader_needs():
    text = (ROOT / "README.md").read_text()
    for page in ("docs/README.md", "utils/README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        assert f"]({page})" in text


def test_make_help_lists_every_target_and_contributing_names_targets_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[1].split())
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert set(re.findall(r"^make ([a-z-]+) ", shown, re.MULTILINE)) == targets
    named = re.findall(r"`make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text())
    assert set(named) <= targets
    assert {"lint", "test", "mutants", "quickstart", "study"} <= set(named)


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_newest_version_of_the_changelog_is_that_of_the_project():
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == project()["project"]["version"]


def test_no_package_is_promised():
    assert "build-system" not in project()
    assert project()["tool"]["setuptools"] == {"packages": [], "py-modules": []}


def test_the_changelog_says_where_modules_moved():
    rows = re.findall(
        r"^\| `(utils\.[\w.]+)` \| (.+) \|$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 50
    exist = {f"utils.{name}" for name, _ in modules()} | {"benchmarks.scene_reader"}
    for old, new in rows:
        assert old not in exist, f"{old} has not moved"
        named = re.findall(r"`((?:utils|benchmarks)\.[\w.]+)`", new)
        assert named, old
        assert set(named) <= exist, f"{old}: {set(named) - exist}"


def test_tests_that_the_departures_name_exist():
    """A row of docs/departures.md that says what agrees is held by the tests that it names."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/departures.md").read_text())
    assert len(named) >= 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"
