"""Backends of nodebench around torchode."""
