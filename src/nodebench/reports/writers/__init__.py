"""Writers: a page as plain values becomes a file or a terminal's text."""
