"""The tables of a run, as CSV and as Parquet, row by row in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aaclip_med.batch.records import Column, Row
from aaclip_med.data.writing import atomic_path, write_csv

ROWS_AT_ONCE = 20_000
_TYPES = {"text": pa.string(), "number": pa.float64(), "count": pa.int64(), "flag": pa.bool_()}


def write_table(folder: Path, name: str, columns: Sequence[Column], rows: Iterable[Row]) -> int:
    """Write ``NAME.csv`` and ``NAME.parquet`` into ``folder``; returns the number of rows.

    Numbers have 6 significant digits in the CSV and are whole in Parquet, whose fields hold each column's unit and meaning.

    Raises:
        OutputError: a file cannot be written.
    """
    fields = [
        pa.field(column.name, _TYPES[column.kind], metadata={"unit": column.unit, "meaning": column.meaning})
        for column in columns
    ]
    schema = pa.schema(fields)
    count = 0
    with atomic_path(folder / f"{name}.parquet") as temporary, pq.ParquetWriter(temporary, schema) as file:

        def pass_on() -> Iterator[Row]:
            nonlocal count
            stream = iter(rows)
            while block := list(islice(stream, ROWS_AT_ONCE)):
                file.write_table(pa.Table.from_pylist([_fit(row, columns) for row in block], schema))
                count += len(block)
                yield from block

        write_csv(folder / f"{name}.csv", [column.name for column in columns], pass_on())
    return count


def _fit(row: Row, columns: Sequence[Column]) -> dict[str, Any]:
    return {column.name: row.get(column.name) for column in columns}
