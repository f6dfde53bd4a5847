"""The tool bundle {{name}}: one tool, which counts the PostgreSQL instances of a host.

It needs the grant `read`. `wit/plugin.wit` has all that a bundle may ask the host for.
"""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.tools import Hints, Tool
from wit_world.imports import instances, settings
from wit_world.imports.types import Failure, FailureCode, FieldError

from counting import count, problems

INPUT_SCHEMA = {
    "type": "object",
    "properties": {
        "version": {"type": "string", "description": 'Count these alone: a PostgreSQL version, such as "17".'},
    },
    "additionalProperties": False,
}

OUTPUT_SCHEMA = {
    "type": "object",
    "properties": {
        "count": {"type": "integer", "description": "How many instances there are."},
        "many": {"type": "boolean", "description": "Whether these are many, as the settings have it."},
    },
    "required": ["count", "many"],
    "additionalProperties": False,
}

TOOLS = [
    Tool(
        name="{{snake_name}}",
        title="Count PostgreSQL instances",
        description="Says how many throwaway PostgreSQL instances there are, and whether these are many.",
        input_schema=json.dumps(INPUT_SCHEMA),
        output_schema=json.dumps(OUTPUT_SCHEMA),
        hints=Hints(read_only=True, destructive=False, idempotent=True, open_world=False),
    )
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
        if name != "{{snake_name}}":
            raise Err(Failure(code=FailureCode.INTERNAL, message=f"there is no tool {name}", advice="", fields=[]))
        version = json.loads(arguments).get("version")
        counted = count((instance.version for instance in instances.list()), version)
        many = json.loads(settings.get()).get("many", 5)
        return json.dumps({"count": counted, "many": counted >= many})
