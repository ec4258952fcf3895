"""Writes the README's tables of what is measured and of what the gate holds, from the catalogue of quantities."""

from pathlib import Path

from nodebench.results.quantities import bands, how_taken

README = Path(__file__).parents[1] / "README.md"

TABLES = (
    (("figure", "in a record", "how it is taken"), how_taken()),
    (("figure", "band", "because"), bands()),
)


def updated(text):
    """The text with each table as it should be, found by its header."""
    for titles, rows in TABLES:
        header, *lines = (f"| {' | '.join(row)} |" for row in (titles, *rows))
        before, _, rest = text.partition(f"{header}\n")
        after = rest.partition("\n\n")[2]
        text = "\n".join([f"{before}{header}", f"|{'---|' * len(titles)}", *lines, "", after])
    return text


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
