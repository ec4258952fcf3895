"""Pictures as parts of an HTML page: small images that fold into as many rows as a narrow page needs."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from nodebench.pictures import Clouds, Curves, Heatmaps, Images, Picture
from nodebench.reports import drawings

ANIMATION_LIMIT = 150_000
"""Bytes an animation may have before its base64 text."""

FRAMES = 24
"""Moments an animation shows at most."""

FRAME_PIXELS = (320, 240)
"""Widths of one of them, tried in this order."""

FRAME_COLOURS = (64, 32, 16)
"""Colours of the image that holds the frames, tried in this order."""

FRAMES_ABREAST = 6
"""Frames in a row of that image."""

INK = "#010203"
"""Stands for the colour of the text, which only the page knows."""


@dataclass(frozen=True)
class Tile:
    """One part of a picture.

    Attributes:
        title: What it shows.
        note: Its scale; may be empty.
        html: The image.
    """

    title: str
    note: str
    html: Markup


@dataclass(frozen=True)
class Player:
    """An animation: its frames side by side in one image, so that a reader can stop at any of them.

    Attributes:
        image: The image, as a data URI.
        columns: Frames in a row.
        rows: Rows of frames.
        labels: What each moment is called.
        ratio: Width over height of a frame.
    """

    image: str
    columns: int
    rows: int
    labels: tuple[str, ...]
    ratio: float


@dataclass(frozen=True)
class Tiles:
    """A picture in parts.

    Attributes:
        title: What it is of.
        tiles: Its parts.
        legend: The roles of its lines and how each looks.
        axes: What its axes are; may be empty.
        player: Its animation, where it has one.
    """

    title: str
    tiles: tuple[Tile, ...]
    legend: tuple[tuple[str, Markup], ...] = ()
    axes: tuple[str, ...] = ()
    player: Player | None = None


def tiles(picture: Picture, name: str, *, animated: bool) -> Tiles:
    """A picture in parts.

    Args:
        picture: The picture.
        name: Key among the drawings of the page.
        animated: Whether a moving picture is to be played as well.
    """
    parts = tuple(
        Tile(title, _note(picture, at), _part(picture, at, f"{name}-{at}"))
        for at, title in enumerate(drawings.parts(picture))
    )
    if isinstance(picture, Curves):
        return Tiles(picture.title, parts, _legend(picture), picture.axes)
    player = _player(picture) if animated and isinstance(picture, Clouds) and len(picture.labels) > 1 else None
    return Tiles(picture.title, parts, player=player)


def _note(picture: Picture, at: int) -> str:
    return drawings.extent(picture.panels[at].values) if isinstance(picture, Heatmaps) else ""


def _part(picture: Picture, at: int, name: str) -> Markup:
    match picture:
        case Heatmaps():
            left, right, bottom, top = picture.window
            pixels = Image.fromarray(_heat(picture.panels[at].values))
            return _image(pixels, (right - left) / (top - bottom), "smooth")
        case Images():
            rows, columns = picture.images[at].shape
            return _image(Image.fromarray(picture.images[at]), columns / rows, "pixels")
        case Clouds():
            moment = drawings.spread(len(picture.labels), drawings.MOMENTS)[at]
            frame = _frame(picture, moment, FRAME_PIXELS[0])
            return _image(frame, frame.width / frame.height, "framed")
        case Curves():
            return _svg(drawings.part(picture, at, INK), name)


def _heat(values: np.ndarray) -> np.ndarray:
    """Pixels of a heat map, top row first; what is not finite is transparent."""
    finite = np.where(np.isfinite(values), values, np.nan).astype(float)
    low, high = (np.nanmin(finite), np.nanmax(finite)) if np.isfinite(finite).any() else (0.0, 1.0)
    scaled = np.ma.masked_invalid((finite - low) / ((high - low) or 1.0))
    colours: np.ndarray = drawings.density_colours()(scaled, bytes=True)
    return colours[::-1]


def _frame(picture: Clouds, moment: int, pixels: int) -> Image.Image:
    """One moment of a moving picture on a transparent ground, so many pixels wide."""
    left, right, bottom, top = picture.window
    drawn = Figure(figsize=(2.0, 2.0 * (top - bottom) / (right - left)), dpi=pixels / 2)
    drawn.patch.set_alpha(0)
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.patch.set_alpha(0)
    drawings.draw_moment(axes, picture, moment)
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGBA")


def _player(picture: Clouds) -> Player:
    moments = drawings.spread(len(picture.labels), FRAMES)
    while True:
        for pixels in FRAME_PIXELS:
            frames = [_frame(picture, moment, pixels) for moment in moments]
            packed = _packed(frames)
            if len(packed) <= ANIMATION_LIMIT or len(moments) < 3:
                columns, rows = min(len(frames), FRAMES_ABREAST), ceil(len(frames) / FRAMES_ABREAST)
                labels = tuple(picture.labels[moment] for moment in moments)
                return Player(_uri(packed, "webp"), columns, rows, labels, frames[0].width / frames[0].height)
        moments = [moments[at] for at in drawings.spread(len(moments), ceil(len(moments) / 2))]


def _packed(frames: Sequence[Image.Image]) -> bytes:
    """Frames as one image, with as many colours as its limit allows, or with the fewest."""
    sheet = _sheet(frames, min(len(frames), FRAMES_ABREAST), ceil(len(frames) / FRAMES_ABREAST))
    packed = b""
    for colours in FRAME_COLOURS:
        buffer = io.BytesIO()
        sheet.quantize(colours).save(buffer, "webp", lossless=True)
        packed = buffer.getvalue()
        if len(packed) <= ANIMATION_LIMIT:
            break
    return packed


def _sheet(frames: Sequence[Image.Image], columns: int, rows: int) -> Image.Image:
    width, height = frames[0].size
    sheet = Image.new("RGBA", (columns * width, rows * height))
    for at, frame in enumerate(frames):
        sheet.paste(frame, (at % columns * width, at // columns * height))
    return sheet


def _image(pixels: Image.Image, ratio: float, look: str) -> Markup:
    """An image as part of the page, in the smaller of two formats."""
    buffer = io.BytesIO()
    pixels.save(buffer, "png", optimize=True)
    exact, packed = buffer.getvalue(), _webp(pixels, 82)
    source = _uri(exact, "png") if look == "pixels" or len(exact) <= len(packed) else _uri(packed, "webp")
    return Markup('<img class="{}" style="aspect-ratio:{}" src="{}" alt="">').format(look, f"{ratio:.4g}", source)


def _webp(pixels: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    pixels.save(buffer, "webp", quality=quality, alpha_quality=quality, method=4)
    return buffer.getvalue()


def _uri(packed: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(packed).decode()}"


def _svg(drawn: Figure, name: str) -> Markup:
    """A figure as inline SVG whose text and axes have the colour of the page's text."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "path.simplify_threshold": 0.3}):
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r' id="([^"]+)"', rf' id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(\d\.\d\d)\d+", r"\1", svg)
    return Markup(re.sub(r"\s*\n\s*", "\n", svg))


def _legend(picture: Curves) -> tuple[tuple[str, Markup], ...]:
    joined = {series.role for plot in picture.plots for series in plot.series if series.mark == "line"}
    line = Markup('<path d="M1 6h26" stroke="{}" stroke-width="{}" stroke-dasharray="{}"/>')
    dots = Markup('<g fill="{}"><circle cx="8" cy="6" r="2.2"/><circle cx="20" cy="6" r="2.2"/></g>')
    entries = []
    for role, style in drawings.styles(picture).items():
        dash = "6 4" if style.dash == "--" else "none"
        mark = line.format(style.colour, style.width, dash) if role in joined else dots.format(style.colour)
        swatch = Markup('<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true">{}</svg>').format(mark)
        entries.append((role, swatch))
    return tuple(entries)
