"""From model input pixels to the page, and from the page to the die. Pure.

Page pixels: x right, y down, from the top left pixel of the original image. With a frame that knows `um_per_px`:

    size_um = (w * um_per_px, h * um_per_px)
    rel_um  = offset_um + (sx * cx * um_per_px, sy * cy * um_per_px)

(cx, cy) is the box's centre in page pixels; sx is +1 for an axis to the Right and -1 to the Left, sy is +1 for Down and -1 for Up;
`offset_um` is where the image's top left pixel lies in the die's frame. Without `offset_um` the image is taken to show the die from its
origin on: the image's corner (or centre) that `origin` names is (0, 0), so rel_um = (sx * (cx - ox), sy * (cy - oy)) * um_per_px.
`orientation_deg` and `notch` describe the wafer and turn nothing here: the image's axes are taken to be the frame's.
"""

from __future__ import annotations

from edged.nouns import Frame, Geometry

Box = tuple[float, float, float, float]


def to_page(box: Box, geometry: Geometry) -> Box:
    """x, y, w, h in model input pixels -> the same in page pixels."""
    x, y, w, h = box
    g = geometry
    return (x * g.scale_x + g.offset_x, y * g.scale_y + g.offset_y, w * g.scale_x, h * g.scale_y)


def to_input(box: Box, geometry: Geometry) -> Box:
    """The way back of `to_page`."""
    x, y, w, h = box
    g = geometry
    return ((x - g.offset_x) / g.scale_x, (y - g.offset_y) / g.scale_y, w / g.scale_x, h / g.scale_y)


def shown(geometry: Geometry) -> Box:
    """The part of the page that this input shows."""
    return to_page(geometry.valid, geometry)


def clip(box: Box, within: Box) -> Box | None:
    """The part of the box that lies within another; None if nothing does."""
    x0, y0 = max(box[0], within[0]), max(box[1], within[1])
    x1, y1 = min(box[0] + box[2], within[0] + within[2]), min(box[1] + box[3], within[1] + within[3])
    return (x0, y0, x1 - x0, y1 - y0) if x1 > x0 and y1 > y0 else None


def size_um(box: Box, frame: Frame | None) -> tuple[float, float] | None:
    if frame is None or frame.um_per_px is None:
        return None
    return (round(box[2] * frame.um_per_px, 3), round(box[3] * frame.um_per_px, 3))


def rel_um(box: Box, frame: Frame | None, width: int, height: int) -> tuple[float, float] | None:
    """The box's centre relative to the die, in micrometres along the frame's axes; None without a scale."""
    if frame is None or frame.um_per_px is None:
        return None
    cx, cy = box[0] + box[2] / 2, box[1] + box[3] / 2
    sx = -1.0 if frame.axis.endswith("Left") else 1.0
    sy = 1.0 if frame.axis.startswith("Down") else -1.0
    if frame.offset_um is not None:
        dx, dy = frame.offset_um
        return (round(dx + sx * cx * frame.um_per_px, 3), round(dy + sy * cy * frame.um_per_px, 3))
    ox, oy = _origin_px(frame.origin, width, height)
    return (round(sx * (cx - ox) * frame.um_per_px, 3), round(sy * (cy - oy) * frame.um_per_px, 3))


def _origin_px(origin: str, width: int, height: int) -> tuple[float, float]:
    if origin == "Center":
        return width / 2, height / 2
    return (float(width) if origin.endswith("Right") else 0.0, float(height) if origin.startswith("Lower") else 0.0)
