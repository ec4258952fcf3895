"""What stands beside the code: licence, types, citation, metadata."""

import re
import tomllib
from importlib.metadata import metadata, requires
from pathlib import Path

import check_jsonschema
import pytest
import yaml
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nodebench
from nodebench import registry

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_licence_is_there_whole():
    """The Apache licence, from its title to its appendix."""
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text
    assert "limitations under the License." in text
    assert (PROJECT["license"], PROJECT["license-files"]) == ("Apache-2.0", ["LICENSE"])


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("github-workflows", ".github/workflows/*.yml"),
        ("github-workflows", "examples/ci/*.yml"),
        ("dependabot", ".github/dependabot.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("citation-file-format", "CITATION.cff"),
    ],
)
def test_a_file_that_others_read_has_their_form(schema, pattern):
    """By the schemas that check-jsonschema brings along; `.pre-commit-config.yaml` has the same."""
    files = sorted(map(str, ROOT.glob(pattern)))
    assert files
    arguments = ["--builtin-schema", f"vendor.{schema}", "--default-filetype", "yaml", *files]
    done = CliRunner().invoke(check_jsonschema.main, arguments)
    assert done.exit_code == 0, done.output
    assert f"--builtin-schema vendor.{schema}" in (ROOT / ".pre-commit-config.yaml").read_text()


def test_users_are_given_types():
    """The marker of PEP 561 is in the package, and the metadata say so."""
    assert Path(nodebench.__file__).with_name("py.typed").exists()
    assert "Typing :: Typed" in metadata("nodebench").get_all("Classifier")


def test_the_citation_is_of_this_version():
    """It has what the format, Citation File Format 1.2.0, asks for."""
    assert CITATION["cff-version"] == "1.2.0"
    assert (CITATION["version"], CITATION["license"]) == (PROJECT["version"], PROJECT["license"])
    assert CITATION["authors"] == PROJECT["authors"]
    assert CITATION["repository-code"] == PROJECT["urls"]["Homepage"]
    for work in (CITATION, *CITATION["references"]):
        assert work.keys() >= {"title", "type", "authors"}
        assert all(author.keys() <= {"name", "family-names", "given-names"} for author in work["authors"])


def test_the_papers_behind_methods_and_solvers_are_cited():
    """What a module of a backend or of its solver refers to by a link is among the references."""
    link = re.compile(r"https://(?:arxiv\.org/abs|doi\.org)/[\w./():-]*\w")
    sources = (ROOT / "src/nodebench/backends").rglob("*.py")
    cited = {work.get("url", f"https://doi.org/{work.get('doi')}") for work in CITATION["references"]}
    assert {found for path in sources for found in link.findall(path.read_text())} <= cited


@pytest.mark.parametrize("name", registry.names("backend"))
def test_a_backend_has_its_reference(name):
    """One that names it says what to cite with it."""
    assert any(f"`{name}`" in work["notes"] for work in CITATION["references"])


def test_the_glossary_has_each_word_once():
    """In alphabetical order; those of a report, a record and the command line among them."""
    page = (ROOT / "docs/glossary.md").read_text()
    words = re.findall(r"^\| ([^|]+?) \| [^|]+ \|$", page, re.MULTILINE)[1:]
    assert words == sorted(set(words), key=str.lower)
    assert set(words) >= {
        "field", "problem", "task", "backend", "solver", "cell", "group", "start", "quantity", "reference", "record",
        "run", "store", "executor", "report", "gate", "baseline", "control", "round", "turn", "floor", "counterpart",
        "shard", "worker", "launcher", "plan", "preset", "band",
    }  # fmt: skip


REPOSITORY, SITE = PROJECT["urls"]["Homepage"], PROJECT["urls"]["Documentation"]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
OURS = {
    f"{REPOSITORY}/blob/main/": "",
    f"{REPOSITORY}/tree/main/": "",
    REPOSITORY.replace("//github.com/", "//raw.githubusercontent.com/") + "/main/": "",
    SITE: "docs/",
}
"""Where files of this repository are to be read, and in which of its folders they are."""


def links(path):
    """The links of a page, without those of its code."""
    text = re.sub(r"^( *)```.*?^\1```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)]+)\)", re.sub(r"`[^`\n]*`", "``", text))


def target(link, path):
    """The file that a link of a page leads to; None where it is none of ours."""
    for address, folder in OURS.items():
        if link.startswith(address):
            file = ROOT / folder / link.removeprefix(address)
            found = (file, file.with_suffix(".md"), file / "README.md", file / "index.md")
            return next((each for each in found if each.exists() and (each.is_file() or not folder)), file)
    return None if "://" in link else path.parent / link if link else path


def headings(path):
    """What the headings of a page are called in links to them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    """To files of this repository, wherever they are read, and to headings; mkdocstrings checks its own names."""
    for link in links(path):
        address, _, heading = link.partition("#")
        file = target(address, path)
        if file is None:
            continue
        assert file.exists(), link
        assert not heading or heading.startswith("nodebench.") or heading in headings(file), link


def test_the_readme_is_a_screen_that_can_be_read_anywhere():
    """It is shown on PyPI, where only whole addresses lead somewhere; the words of the project are on the site."""
    readme = ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= 100
    assert [link for link in links(readme) if not link.startswith("https://")] == []
    assert f"{SITE}glossary/" in links(readme)


def test_the_site_has_every_public_name_once():
    """`nodebench.__version__`, which is no object with a docstring, is named in its first lines."""
    page = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: nodebench\.(\w+)$", page, re.MULTILINE)) == sorted(
        {*nodebench.__all__} - {"__version__"}
    )
    assert "`nodebench.__version__`" in page


def test_what_the_site_is_made_with_is_pinned():
    """All that the group `docs` brings, so that the site of today can be made tomorrow."""
    pytest.importorskip("mkdocs")
    group = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["docs"]
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    wanted, seen = [(text, "") for text in group], set()
    while wanted:
        text, extra = wanted.pop()
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": extra}):
            continue
        for each in {"", *needed.extras} - {found for name, found in seen if name == needed.name}:
            seen.add((needed.name, each))
            wanted += [(text, each) for text in requires(needed.name) or ()]
    spelled = {canonicalize_name(name) for name, _ in seen}
    assert len(spelled) > len(group)
    assert spelled - {canonicalize_name(pin.partition("==")[0]) for pin in pins} == set()
