"""What stands beside the code: licence, types, citation, metadata."""

import re
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest
import yaml

import nodebench
from nodebench import registry
from nodebench.importing import source_file, split_target

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


@pytest.mark.parametrize("name", registry.names("backend"))
def test_the_paper_behind_a_backend_is_cited(name):
    """What its docstring refers to by a link is among the references, and it is named there."""
    module, _ = split_target(registry.describe("backend", name).target)
    links = set(re.findall(r"https://(?:arxiv\.org/abs|doi\.org)/[\w./]*\w", source_file(module).read_text()))
    cited = {work.get("url", f"https://doi.org/{work.get('doi')}") for work in CITATION["references"]}
    assert links <= cited
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
