"""Makes a page of the site of each notebook: its text, its code, and what it showed when it was executed."""

from pathlib import Path

import nbformat
from mkdocs.structure.files import File

# In a tree of its own: neither the site's style nor the output's reaches into the other.
OUTPUT = '<div class="output"><template shadowrootmode="open">{}</template></div>'


def on_files(files, config):
    """Add the pages beside the notebooks, which can be downloaded."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        notebook = nbformat.reads(file.content_string, 4)
        text = "\n\n".join(part for cell in notebook["cells"] for part in _parts(cell))
        name = f"[Download this notebook]({Path(file.src_uri).name})"
        files.append(File.generated(config, f"{file.src_uri.removesuffix('.ipynb')}.md", content=f"{text}\n\n{name}\n"))
    return files


def on_page_markdown(markdown, page, **others):
    """Lead to the page of a notebook where a file of docs/ leads to the notebook itself."""
    del others
    return markdown if page.file.src_uri.startswith("notebooks/") else markdown.replace(".ipynb)", ".md)")


def _parts(cell):
    """A cell, and its outputs, in Markdown."""
    if cell["cell_type"] == "markdown":
        yield cell["source"]
        return
    yield f"```python\n{cell['source']}\n```"
    for output in cell["outputs"]:
        page = output.get("data", {}).get("text/html")
        text = output.get("text", output.get("data", {}).get("text/plain", ""))
        if page:
            # Without empty lines, at which Markdown would end the element.
            yield OUTPUT.format("\n".join(line for line in page.splitlines() if line.strip()))
        elif page is None and text.strip():
            yield f"```text\n{text.strip()}\n```"
