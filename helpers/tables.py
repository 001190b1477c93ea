"""What tasks did in the application's own table: counted apart from how often they ran."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd


def effects(database: Path | str, table: str, key: str) -> pd.Series:
    """Rows of the application's own SQLite table for each value of the column `key`.

    Executions and effects are counted apart: a task that ran twice may have charged once.
    Raises sqlite3.OperationalError when there is no such file or table.
    """
    query = f'SELECT "{key}", COUNT(*) AS rows FROM "{table}" GROUP BY "{key}"'
    address = f"{Path(database).absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as connection:
        return pd.read_sql_query(query, connection, index_col=key)["rows"]
