#!/usr/bin/env python3
"""
Writes the weighted mean of two models of one shape, of which the second went on from the first (model
soups, Wortsman et al. 2022, arXiv:2203.05482): it keeps what the first could do and has most of what is new.
"""

import argparse

from gguf import read_gguf, write_gguf


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("first", help="F32 GGUF")
    add("second", help="F32 GGUF, whose header is kept")
    add("--share", type=float, required=True, help="weight of the second, 0 to 1")
    add("--out", required=True)
    args = parser.parse_args()
    _, first = read_gguf(args.first)
    header, second = read_gguf(args.second)
    shapes = lambda weights: {name: weight.shape for name, weight in weights.items()}
    if shapes(first) != shapes(second):
        raise SystemExit(f"{args.first} and {args.second} have different tensors; give models of one shape")
    if not 0 <= args.share <= 1:
        raise SystemExit(f"--share is {args.share}; give a number from 0 to 1")
    mean = {k: ((1 - args.share) * first[k] + args.share * w).astype("float32") for k, w in second.items()}
    write_gguf(args.out, header, mean)


if __name__ == "__main__":
    main()
