"""Makes tests/golden/averages.json: averages over the cases of a small sweep by pandas, NumPy and SciPy.

    pip install numpy scipy pandas
    python tests/python/make_average_golden.py

The server draws cases with Philox4x32-10 in counter mode (Salmon et al. 2011), written down here a second time, so that
intervals are compared draw by draw. `scipy` holds intervals of scipy.stats.bootstrap, whose generator is another: they
agree within Monte Carlo error. P-values of the strongest are counted over all sign flips of whole cases; `alone` holds those
of scipy.stats.permutation_test, of one average at a time.
"""

import itertools
import json
import pathlib
import warnings

import numpy as np
import pandas as pd
import scipy.stats

SEED, RESAMPLES, LEVEL, TOP = 11, 400, 0.9, 3
CLASSES = ["first_subject", "middle_subject", "last_subject", "first_subsequent", "further", "last"]
BOOTSTRAP = 2**32 - 6
POOLED = 2**32 - 1


def philox(counter, key):
    """Ten rounds of Philox4x32 of counters [m, 4]."""
    c = [column.astype(np.uint64) for column in np.asarray(counter, dtype=np.uint64).T]
    k = [np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> np.uint64(32)) ^ c[1] ^ k[0], b & low, (a >> np.uint64(32)) ^ c[3] ^ k[1], a & low]
        k = [(k[0] + np.uint64(0x9E3779B9)) & low, (k[1] + np.uint64(0xBB67AE85)) & low]
    return np.stack(c, axis=1)


def draws(n, which):
    """Sets of cases, [RESAMPLES, n]."""
    blocks = -(-n // 4)
    sets = []
    for draw in range(RESAMPLES):
        words = philox([[block, draw, which, BOOTSTRAP] for block in range(blocks)], SEED).ravel()[:n]
        sets.append(((words * np.uint64(n)) >> np.uint64(32)).astype(int))
    return np.array(sets)


def interval(values):
    if not np.isfinite(values).all():
        return None
    tail = (1 - LEVEL) / 2
    return list(np.quantile(values, [tail, 1 - tail]))


def estimate(x, which):
    """Mean, standard error, percentile interval, cases, interval by Student's t."""
    if len(x) < 2:
        return [x.mean(), None, None, len(x), None]
    se = scipy.stats.sem(x)
    t = scipy.stats.t.interval(LEVEL, len(x) - 1, x.mean(), se)
    return [x.mean(), se, interval(x[draws(len(x), which)].mean(1)), len(x), list(t)]


def robust(x, which):
    """Median and trimmed mean with their percentile intervals."""
    drawn = x[draws(len(x), which)]
    many = len(x) > 1
    trimmed = scipy.stats.trim_mean(drawn, 0.2, axis=1)
    return [np.median(x), interval(np.median(drawn, 1)) if many else None,
            scipy.stats.trim_mean(x, 0.2), interval(trimmed) if many else None]


def sweep():
    """A small sweep: positions of different numbers, a class that few cases have, positions before the subject."""
    rng = np.random.default_rng(5)
    cases, cells = [], []
    for i in range(12):
        # Not in the order of their names.
        case = {"id": f"case{7 * i % 12:02}", "group": None if i == 4 else ["pun", "literal"][i % 2], "kept": i != 9}
        case["total"] = [round(float(x), 3) for x in rng.normal(0.6, 0.15, 2)]
        cases.append(case)
        if not case["kept"]:
            continue
        before, middle, further = i % 2, int(i in (0, 1, 6)), i % 3
        classes = [None] * before + [0] + [1] * middle + [2, 3] + [4] * further + [5]
        for arm in range(2):
            for layer in (4, 9):
                for position, token_class in enumerate(classes):
                    strong = 0.3 if (arm, layer, token_class) == (0, 9, 2) else 0.02
                    null = layer == 9 and token_class is None
                    effect = 0.0 if null else round(float(rng.normal(strong, 0.12) * case["total"][arm]), 4)
                    trivial = (layer, token_class) == (9, 5)
                    cells.append([i, arm, layer, position, token_class, effect, int(trivial), int(null)])
    return cases, cells


def main():
    cases, cells = sweep()
    names = ["case", "arm", "layer", "position", "token_class", "effect", "trivial", "exact_null"]
    frame = pd.DataFrame(cells, columns=names).dropna(subset=["token_class"])
    frame["token_class"] = frame["token_class"].astype(int)
    frame["id"] = [cases[i]["id"] for i in frame["case"]]
    frame["group"] = [cases[i]["group"] for i in frame["case"]]
    frame["total"] = [cases[i]["total"][arm] for i, arm in zip(frame["case"], frame["arm"])]
    keys = ["arm", "layer", "token_class"]
    within = frame.groupby(keys + ["id"]).agg(
        effect=("effect", "mean"), total=("total", "first"), group=("group", "first"), cells=("effect", "size"),
        trivial=("trivial", "sum"))
    within = within.reset_index()
    pools = [(None, 0), ("pun", 2), ("literal", 1)]
    members = {name: within if name is None else within[within["group"] == name] for name, _ in pools}

    rows = []
    for name, which in pools:
        for key, of in members[name].groupby(keys):
            of = of.sort_values("id")
            x, total = of["effect"].to_numpy(), of["total"].to_numpy()
            drawn = draws(len(x), which)
            ratio = interval(x[drawn].mean(1) / total[drawn].mean(1)) if len(x) > 1 else None
            counts = [of["cells"].sum(), of["trivial"].sum()]
            rows.append([name, *key, *estimate(x, which), x.mean() / total.mean(), ratio, *counts, *robust(x, which)])

    totals = []
    for name, which in pools:
        kept = [c for c in sorted(cases, key=lambda c: c["id"]) if c["kept"] and name in (None, c["group"])]
        for arm in range(2):
            totals.append([name, arm, *estimate(np.array([c["total"][arm] for c in kept]), which)])

    groups = []
    a, b = members["pun"].groupby(keys), members["literal"].groupby(keys)
    for key, of in a:
        if key not in b.groups:
            continue
        x, y = (part.sort_values("id")["effect"].to_numpy() for part in (of, b.get_group(key)))
        both = len(x) > 1 and len(y) > 1
        between = x[draws(len(x), 2)].mean(1) - y[draws(len(y), 1)].mean(1)
        error = np.hypot(scipy.stats.sem(x), scipy.stats.sem(y)) if both else None
        welch = scipy.stats.ttest_ind(x, y, equal_var=False).confidence_interval(LEVEL) if both else None
        groups.append([*key, x.mean() - y.mean(), error, interval(between) if both else None, len(x) + len(y),
                       [welch.low, welch.high] if both else None])

    arms = []
    wide = within.pivot(index=["layer", "token_class", "id"], columns="arm", values="effect").reset_index()
    for key, of in wide.groupby(["layer", "token_class"]):
        of = of.sort_values("id")
        arms.append([*key, *estimate((of[0] - of[1]).to_numpy(), 0)])

    # The family: averages of all cases together that aren't trivial.
    everyone = sorted(c["id"] for c in cases if c["kept"])
    n = len(everyone)
    assert n == 11
    table = within.pivot(index="id", columns=keys, values="effect").loc[everyone]
    table = table[[key for key in table.columns if key[1:] != (9, 5)]]
    x = table.to_numpy()
    m = np.isfinite(x).sum(0)
    mean, se = np.nanmean(x, 0), np.nanstd(x, 0, ddof=1) / np.sqrt(m)
    t = mean / se

    # Flipping all cases changes no |sum|: the last one stays as it is.
    signs = np.array([[*pattern, 1] for pattern in itertools.product([1, -1], repeat=n - 1)])
    filled = np.nan_to_num(x)
    statistics = np.abs(signs @ filled) / np.sqrt((filled**2).sum(0))
    observed = np.abs(filled.sum(0)) / np.sqrt((filled**2).sum(0))
    p = (statistics.max(1)[:, None] >= observed * (1 - 1e-9)).mean(0)

    drawn = draws(n, POOLED)
    tops = {}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for order in ("effect", "t"):
            def strength(values):
                k = np.isfinite(values).sum(0)
                size = np.abs(np.nanmean(values, 0))
                if order == "effect":
                    return np.where(k > 0, size, -1.0)
                error = np.where(k > 1, np.nanstd(values, 0, ddof=1) / np.sqrt(k), 0.0)
                # The same case drawn again and again has no error but what rounding leaves.
                error = np.where(error < 1e-9, 0.0, error)
                return np.where(k > 0, size / error, -1.0)

            among = np.zeros(len(m))
            for one in drawn:
                among[np.argsort(-strength(x[one]), kind="stable")[:TOP]] += 1
            best = np.argsort(-strength(x), kind="stable")[:TOP]
            tops[order] = [[*map(int, table.columns[i]), mean[i], se[i], m[i], t[i], p[i], among[i] / RESAMPLES]
                           for i in best]

    alone = []
    for i, key in enumerate(table.columns):
        of = x[:, i][np.isfinite(x[:, i])]
        test = scipy.stats.permutation_test((of,), np.mean, permutation_type="samples", n_resamples=np.inf)
        alone.append([*map(int, key), test.pvalue])

    scipys = []
    for row in rows:
        if row[0] is None and row[4 + 3] == n:
            of = within.set_index(keys).loc[tuple(row[1:4])]["effect"].to_numpy()
            ci = scipy.stats.bootstrap((of,), np.mean, n_resamples=50_000, confidence_level=LEVEL, method="percentile",
                                       rng=np.random.default_rng(0)).confidence_interval
            scipys.append([*row[1:4], ci.low, ci.high])

    def plain(value):
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, (float, np.floating)):
            return float(f"{value:.13g}")
        return int(value) if isinstance(value, np.integer) else value

    golden = {
        "how": {"seed": SEED, "resamples": RESAMPLES, "level": LEVEL, "top_k": TOP},
        "cases": cases, "cells": cells, "rows": rows, "totals": totals, "groups": groups, "arms": arms,
        "top": tops["effect"], "top_by_t": tops["t"], "alone": alone, "scipy": scipys,
    }
    lines = [f'"{key}": ' + ("[\n" + ",\n".join(json.dumps(plain(v)) for v in part) + "\n]" if key != "how" else json.dumps(part))
             for key, part in golden.items()]
    path = pathlib.Path(__file__).parents[1] / "golden/averages.json"
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
