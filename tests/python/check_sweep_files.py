"""Reads a sweep's files with pandas, pyarrow, NumPy and safetensors and compares them with its JSON.

    pip install numpy pandas pyarrow safetensors
    cargo test --lib sweep::gallery -- --ignored
    python tests/python/check_sweep_files.py target/gallery/sweep-classes target/gallery/sweep-positions
"""

import json
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from safetensors import safe_open

TABLES = ["averages", "cells", "cases", "differences", "top"]


def same(a, b):
    """Tables of one sweep by different writers."""
    assert list(a.columns) == list(b.columns) and len(a) == len(b), (a.columns, b.columns, len(a), len(b))
    for name in a.columns:
        x, y = a[name], b[name]
        if pd.api.types.is_numeric_dtype(x) and not pd.api.types.is_bool_dtype(x):
            assert np.array_equal(x.to_numpy(float), y.to_numpy(float), equal_nan=True), name
        else:
            assert [None if pd.isna(v) else v for v in x] == [None if pd.isna(v) else v for v in y], name


def check(path):
    outcome = json.load(open(f"{path}.json"))
    frames = {}
    for table in TABLES:
        file = pq.ParquetFile(f"{path}-{table}.parquet")
        assert file.schema_arrow.metadata[b"plan_sha256"] == b"abc" and file.metadata.num_row_groups >= 1
        parquet = file.read().to_pandas()
        same(parquet, pd.read_csv(f"{path}-{table}.csv"))
        lines = pd.read_json(f"{path}-{table}.jsonl", lines=True, precise_float=True)
        if len(lines):
            assert list(lines.columns) == list(parquet.columns)
            numbers = parquet.select_dtypes("float").columns
            assert np.allclose(parquet[numbers], lines[numbers].astype(float), rtol=1e-15, equal_nan=True)
        frames[table] = parquet

    cells, metrics = outcome["cells"], outcome["metrics"]
    assert len(frames["cells"]) == len(cells["case"]) * len(metrics)
    for metric, columns in zip(metrics, cells["metrics"]):
        mine = frames["cells"].query("metric == @metric")
        assert np.array_equal(mine["effect"], np.array(columns["effect"], float), equal_nan=True)

    arrays = np.load(f"{path}.npz", allow_pickle=False)
    with safe_open(f"{path}.safetensors", "numpy") as tensors:
        text = {name for name in arrays.files if arrays[name].dtype.kind == "U"}
        assert set(tensors.keys()) == set(arrays.files) - text, set(tensors.keys()) ^ set(arrays.files)
        for name in tensors.keys():
            assert np.array_equal(tensors.get_tensor(name), arrays[name], equal_nan=arrays[name].dtype.kind == "f"), name
        assert json.loads(tensors.metadata()["cases"]) == [case["id"] for case in outcome["cases"]]
    classes = list(arrays["token_class_names"])

    # Every average, found in the arrays by its place.
    axes = {"layer": "layers", "token_class": "token_classes", "position": "positions", "head": "heads"}
    for row in outcome["averages"]["rows"]:
        group = f"groups/{row['group']}/" if row["group"] else ""
        base = f"{group}averages/{row['arm']}"
        order = [axis for axis in ["layer", "token_class", "position", "head"] if f"{base}/{axes[axis]}" in arrays]
        value = {axis: classes.index(row[axis]) if axis == "token_class" else row[axis] for axis in order}
        at = tuple(list(arrays[f"{base}/{axes[axis]}"]).index(value[axis]) for axis in order)
        assert arrays[f"{base}/{row['metric']}/mean"][at] == row["effect"]["mean"]
        assert arrays[f"{base}/{row['metric']}/n"][at] == row["effect"]["n"]

    # Cells again: dense ones, or by class and in columns.
    for i, arm in enumerate(outcome["arms"]):
        mine = frames["cells"].query("metric == @metrics[0] and arm == @arm['name']")
        name = f"cells/{arm['name']}/{metrics[0]}/effect"
        if name in arrays:
            assert np.array_equal(arrays[name].ravel(), mine["effect"])
            assert arrays[name].shape[0] == len(arrays[f"cells/{arm['name']}/cases"])
        else:
            mine = mine.dropna(subset=["token_class"])
            means = mine.groupby(["case", "token_class", "layer"])["effect"].mean()
            found = arrays[f"classes/{arm['name']}/{metrics[0]}/effect"]
            ids = arrays["case_ids"][arrays[f"classes/{arm['name']}/cases"]]
            for (case, token_class, layer), mean in means.items():
                at = list(ids).index(case), classes.index(token_class), list(arrays[f"classes/{arm['name']}/layers"]).index(layer)
                assert abs(found[at] - mean) < 1e-14
            assert np.isfinite(found).sum() == len(means)
            own = arrays["columns/arm"] == i
            assert np.array_equal(arrays[f"columns/{metrics[0]}/effect"][own], np.array(cells["metrics"][0]["effect"])[own])
    print(path, "agrees:", {name: len(frame) for name, frame in frames.items()}, len(arrays.files), "arrays")


for path in sys.argv[1:]:
    check(path)
