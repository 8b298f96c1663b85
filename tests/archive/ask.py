"""Asks DuckDB, in a process of its own: beside another library of its binding it complains at the end of the process.

stdin: a JSON list of queries; stdout: for each, a list of rows by column name.
"""

import json
import sys

import duckdb

answers = []
with duckdb.connect() as connection:
    for query in json.load(sys.stdin):
        connection.execute(query)
        names = [str(column[0]) for column in connection.description or ()]
        answers.append([dict(zip(names, row, strict=True)) for row in connection.fetchall()])
json.dump(answers, sys.stdout, default=str)
