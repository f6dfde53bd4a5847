"""An example tool bundle in Python: instances whose schema comes from a team's migrations.

One tool creates an instance and applies every migration there; the other applies those that an instance lacks. Each
migration and the note that it was applied are one transaction. If one fails, the call fails with its name, and an instance
that the call has created is dropped by the host.

It needs the grants `create` and `sql`, and no `read-credentials`: the password and the DSN in its result are words that the
host fills in when the call has ended.
"""

import json
import re

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.tools import Hints, Tool
from wit_world.imports import instances, settings, sql
from wit_world.imports.types import CreateRequest, Failure, FailureCode, FieldError

# What a team has that has said nothing else.
EXAMPLE = [
    {"name": "001_customer", "sql": "CREATE TABLE customer (id serial PRIMARY KEY, name text NOT NULL)"},
    {"name": "002_email", "sql": "ALTER TABLE customer ADD email text; CREATE UNIQUE INDEX ON customer (email)"},
]

# Such a name can stand in a literal as it is.
NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")

NOTES = "CREATE TABLE IF NOT EXISTS schema_migration (name text PRIMARY KEY, applied_at timestamptz DEFAULT now())"


def problems(given):
    """Everything that is wrong with the settings: pairs of field and message."""
    if not isinstance(given, dict):
        yield "settings", "must be an object"
        return
    for key in given.keys() - {"migrations"}:
        yield key, "is not a setting; the only one is migrations"
    migrations = given.get("migrations", EXAMPLE)
    if not isinstance(migrations, list):
        yield "migrations", "must be a list"
        return
    seen = set()
    for number, migration in enumerate(migrations):
        field = f"migrations[{number}]"
        if not isinstance(migration, dict) or migration.keys() != {"name", "sql"}:
            yield field, "must have name and sql, and nothing else"
            continue
        name, script = migration["name"], migration["sql"]
        if not isinstance(name, str) or not NAME.fullmatch(name):
            yield f"{field}.name", "must have 1 to 100 letters, digits, dots, hyphens and underscores"
        elif name in seen:
            yield f"{field}.name", f"must differ from the others: {name} is there twice"
        else:
            seen.add(name)
        if not isinstance(script, str) or not script.strip():
            yield f"{field}.sql", "must be SQL"


def apply_missing(instance_id):
    """Applies what the instance lacks; returns the names of those and of the ones it had."""
    sql.execute(instance_id, NOTES)
    noted = sql.query(instance_id, "SELECT name FROM schema_migration ORDER BY name", [])
    had = [row[0].value for row in noted.rows]
    applied = []
    for migration in json.loads(settings.get()).get("migrations", EXAMPLE):
        name = migration["name"]
        if name in had:
            continue
        try:
            # One transaction: what is applied is noted, and nothing else.
            sql.execute(instance_id, f"{migration['sql']}\n;INSERT INTO schema_migration (name) VALUES ('{name}')")
        except Err as error:
            failure = error.value
            failure.message = f"the migration {name} fails: {failure.message}"
            raise
        applied.append(name)
    return applied, had


def text(description):
    return {"type": "string", "description": description}


def names(description):
    return {"type": "array", "items": {"type": "string"}, "description": description}


def schema(properties, required):
    return json.dumps(
        {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    )


ID = text("The instance's id, as list_postgres_instances shows it.")
APPLIED = names("The migrations that this call has applied, in their order.")
HAD = names("The migrations that the instance had already.")

TOOLS = [
    Tool(
        name="create_migrated_instance",
        title="Create a migrated PostgreSQL instance",
        description="Starts a throwaway PostgreSQL server that has this team's schema: all migrations are applied. Use it "
        "instead of create_postgres_instance when a task is about that schema. Drop the instance with "
        "drop_postgres_instance when the work is done.",
        input_schema=schema({"version": text('PostgreSQL version, such as "17". Leave it out for the default.')}, []),
        output_schema=schema(
            {
                "id": text("The instance's id: pass it to the other tools."),
                "applied": APPLIED,
                "password": text("The user's password. A secret."),
                "dsn": text("Connection URI with the password in it. A secret."),
            },
            ["id", "applied", "password", "dsn"],
        ),
        hints=Hints(read_only=False, destructive=False, idempotent=False, open_world=False),
    ),
    Tool(
        name="migrate_instance",
        title="Migrate a PostgreSQL instance",
        description="Applies those of this team's migrations that a PostgreSQL instance lacks, in their order.",
        input_schema=schema({"id": ID}, ["id"]),
        output_schema=schema({"id": ID, "applied": APPLIED, "had": HAD}, ["id", "applied", "had"]),
        hints=Hints(read_only=False, destructive=True, idempotent=True, open_world=False),
    ),
]


class Tools(exports.Tools):
    """What the world `tool-bundle` exports."""

    def check_settings(self, settings):
        wrong = [FieldError(field=field, message=message) for field, message in problems(json.loads(settings))]
        if wrong:
            raise Err(wrong)

    def describe(self):
        return TOOLS

    def call(self, name, arguments):
        # The host has checked both before.
        arguments = json.loads(arguments)
        if name == "migrate_instance":
            applied, had = apply_missing(arguments["id"])
            return json.dumps({"id": arguments["id"], "applied": applied, "had": had})
        if name == "create_migrated_instance":
            request = CreateRequest(
                version=arguments.get("version"), database=None, username=None, password=None, ttl_seconds=None
            )
            connection = instances.create(request).connection
            applied, _ = apply_missing(connection.instance.id)
            return json.dumps(
                {
                    "id": connection.instance.id,
                    "applied": applied,
                    "password": connection.password,
                    "dsn": connection.dsn,
                }
            )
        raise Err(Failure(code=FailureCode.INTERNAL, message=f"there is no tool {name}", advice="", fields=[]))
