"""Plots as SVG, without a library."""

import math
from html import escape

COLOURS = ["#1f6feb", "#d29922", "#8b949e", "#bf4b8a"]
STYLE = "font-family:sans-serif;font-size:12px;fill:#57606a"
WIDTH = 760


def document(width, height, inner):
    """An SVG file."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n{inner}</svg>\n'
    )


def label(x, y, words, anchor="start"):
    """Text at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{STYLE}">{escape(words)}</text>\n'


def bars(groups, unit):
    """Horizontal bars in groups: `[(title, [(name, value)…])…]`."""
    left, bar, gap = 360, 12, 14
    most = max([value for _, members in groups for _, value in members] or [1])
    names = []
    for _, members in groups:
        names += [name for name, _ in members if name not in names]
    out, y = "", 24
    for at, name in enumerate(names):
        out += f'<rect x="{20 + at * 180}" y="{y - 10}" width="10" height="10" fill="{COLOURS[at % len(COLOURS)]}"/>\n'
        out += label(36 + at * 180, y, name)
    y += 16
    for title, members in groups:
        out += label(
            left - 8, y + bar * len(members) / 2 + 4, title if len(title) < 58 else title[:56] + "…", "end"
        )
        for name, value in members:
            length = (WIDTH - left - 60) * value / most
            out += (
                f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 2}" '
                f'fill="{COLOURS[names.index(name) % len(COLOURS)]}"/>\n'
            )
            out += label(left + length + 4, y + bar - 3, f"{value:.2f}")
            y += bar
        y += gap
    out += label(left, y + 6, unit)
    return document(WIDTH, y + 20, out)


def line(points, x_name, y_name):
    """A curve over a logarithmic x axis; y begins at nought."""
    width, height, left, top, bottom = 480, 260, 70, 30, 44
    low, high = (math.log10(f(x for x, _ in points)) for f in (min, max))
    most = max(y for _, y in points) or 1
    place_x = lambda x: (
        left + (width - left - 30) * ((math.log10(x) - low) / (high - low) if high > low else 0.5)
    )
    place_y = lambda y: top + (height - top - bottom) * (1 - y / most)
    out = f'<path d="M{left} {top}V{height - bottom}H{width - 20}" fill="none" stroke="#8b949e"/>\n'
    out += label(8, 18, y_name) + label(width - 20, height - 8, x_name, "end")
    for share in (0, 0.5, 1):
        out += label(left - 6, place_y(most * share) + 4, short(most * share), "end")
    for x, _ in points:
        out += label(place_x(x), height - bottom + 16, short(x), "middle")
    path = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in points)
    out += f'<polyline points="{path}" fill="none" stroke="{COLOURS[0]}" stroke-width="2"/>\n'
    out += "".join(
        f'<circle cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="3" fill="{COLOURS[0]}"/>\n'
        for x, y in points
    )
    return document(width, height, out)


def short(value):
    """`1234567` as `1.23M`."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"
