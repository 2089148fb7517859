"""What a part remembers beside its rows, in the metadata of its Parquet file: images, rejected files, counts."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

Summary = dict[str, Any]
"""`images`: how many were looked at; `rejected`: [{"path", "reason"}]; `counts`: {name: int}."""


def attach(table: pa.Table, summary: Summary) -> pa.Table:
    return table.replace_schema_metadata({"summary": json.dumps(summary)})


def read(metadata: Mapping[bytes, bytes]) -> Summary:
    return json.loads(metadata[b"summary"])


def add_up(summaries: Sequence[Summary]) -> dict[str, Any]:
    """`images`, number of `rejected` files, and `counts` of all parts together."""
    names = dict.fromkeys(name for summary in summaries for name in summary["counts"])
    return {
        "images": sum(summary["images"] for summary in summaries),
        "rejected": sum(len(summary["rejected"]) for summary in summaries),
        "counts": {name: sum(summary["counts"].get(name, 0) for summary in summaries) for name in names},
    }
