#!/usr/bin/env python3
"""Draws log.jsonl of a run as SVG: curve.py --log log.jsonl --out curve.svg"""

import argparse
import json
import math

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 800, 360, 50, 40, 20, 190
COLOURS = ["#1b6ca8", "#c0392b", "#27864a", "#8e44ad", "#b9770e", "#117a65", "#7f8c8d", "#a93280",
           "#2e4053", "#6e7b12", "#d4ac0d", "#000000"]  # fmt: skip


def smooth(values):
    """Exponential mean over a thirtieth of the log, as what a noisy log means; gaps are kept."""
    weight = max(0.0, 1 - 30 / len(values))
    out, mean = [], None
    for value in values:
        if value is not None:
            mean = value if mean is None else weight * mean + (1 - weight) * value
        out.append(mean if value is not None else None)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    # A run that was killed goes on from its last checkpoint: of a step logged twice the last counts.
    logged = (json.loads(line) for line in open(args.log, encoding="utf-8"))
    rows = sorted({row["step"]: row for row in logged}.values(), key=lambda row: row["tokens"])
    names = sorted({name for row in rows for name in row["skills"]} - {"attention loss"})
    end = rows[-1]["tokens"]
    top = max(row["prose"] for row in rows)
    x = lambda tokens: LEFT + (WIDTH - LEFT - RIGHT) * tokens / end
    y = lambda share: TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)
    lines = [("prose loss", [row["prose"] / top for row in rows], 2.5)]
    lines += [(name, [row["skills"].get(name) for row in rows], 1.2) for name in names]
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        out.append(f'<path d="M{LEFT} {y(share):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    step = 10 ** math.floor(math.log10(end / 2))
    for tokens in range(0, int(end) + 1, int(step)):
        out.append(f'<text x="{x(tokens):.1f}" y="{HEIGHT - 22}" text-anchor="middle">{tokens / 1e6:g}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">million tokens</text>')
    ends = []
    for (name, values, width), colour in zip(lines, reversed(COLOURS[: len(lines)])):
        points = [(x(row["tokens"]), y(v)) for row, v in zip(rows, smooth(values)) if v is not None]
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        label = f"{name} (100 % = {top:.1f} nats)" if width > 2 else name
        ends.append([points[-1][1], label, colour])
    last = 0
    for at, label, colour in sorted(ends):
        last = max(at + 4, last + 14)
        out.append(f'<text x="{WIDTH - RIGHT + 6}" y="{last:.1f}" fill="{colour}">{label}</text>')
    out.append("</svg>")
    with open(args.out, "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
