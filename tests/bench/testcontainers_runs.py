"""Testcontainers as its users have it, for tests/src/bench: for each line "run IMAGE" on standard input it starts a
server, has its first query answered, and prints the milliseconds that this took; "quit" or the end ends it.

What one process pays once, its start and its imports, is not in the figures.
"""

import sys
import time

import psycopg
from testcontainers.community.postgres import PostgresContainer


def run(image: str) -> float:
    begun = time.perf_counter()
    server = PostgresContainer(image, driver=None)
    try:
        server.start()
        with psycopg.connect(server.get_connection_url()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            took = time.perf_counter() - begun
    finally:
        server.stop()
    return took * 1000


for line in sys.stdin:
    match line.split():
        case ["run", image]:
            print(run(image), flush=True)
        case _:
            break
