"""What stands beside the code: licence, types, citation, metadata."""

import re
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import check_jsonschema
import pytest
import yaml
from click.testing import CliRunner

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
    link = re.compile(r"https://(?:arxiv\.org/abs|doi\.org)/[\w./()-]*\w")
    sources = (ROOT / "src/nodebench/backends").rglob("*.py")
    cited = {work.get("url", f"https://doi.org/{work.get('doi')}") for work in CITATION["references"]}
    assert {found for path in sources for found in link.findall(path.read_text())} <= cited


@pytest.mark.parametrize("name", registry.names("backend"))
def test_a_backend_has_its_reference(name):
    """One that names it says what to cite with it."""
    assert any(f"`{name}`" in work["notes"] for work in CITATION["references"])


def test_the_glossary_has_each_word_once():
    """In alphabetical order, linked from the README; those of a report, a record and the command line among them."""
    page = (ROOT / "docs/glossary.md").read_text()
    words = re.findall(r"^\| ([^|]+?) \| [^|]+ \|$", page, re.MULTILINE)[1:]
    assert words == sorted(set(words), key=str.lower)
    assert set(words) >= {
        "field", "problem", "task", "backend", "solver", "cell", "group", "start", "quantity", "reference", "record",
        "run", "store", "executor", "report", "gate", "baseline", "control", "round", "turn", "floor", "counterpart",
        "shard", "worker", "launcher", "plan", "preset", "band",
    }  # fmt: skip
    assert "(docs/glossary.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_links_lead_somewhere(path):
    """Those to files of this repository, and to headings of the same page."""
    text = path.read_text()
    headings = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    for link in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", text):
        assert "://" in link or (path.parent / link).exists(), link
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= headings
