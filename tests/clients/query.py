"""Connects with psycopg to the DSN in $DSN and prints who and where it is, as JSON."""

import json
import os

import psycopg

with psycopg.connect(os.environ["DSN"]) as connection:
    print(json.dumps(connection.execute("SELECT current_user::text, current_database()::text").fetchone()))
