"""A tool bundle that runs the Python that it is given: it stands for any guest with a runtime that uses WASI."""

import json
import os  # noqa: F401: for the code that it is given; there are no files to import from later
import random  # noqa: F401
import socket  # noqa: F401
import sys  # noqa: F401
import time  # noqa: F401

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.tools import Hints, Tool
from wit_world.imports import clock, instances, log, settings  # noqa: F401
from wit_world.imports.types import Failure, FailureCode


class Tools(exports.Tools):
    """What the world `tool-bundle` exports."""

    def check_settings(self, settings):
        pass

    def describe(self):
        time.sleep(json.loads(settings.get()).get("sleeps_before_it_describes", 0))
        code = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}
        hints = Hints(read_only=False, destructive=True, idempotent=False, open_world=False)
        return [Tool("python", "Python", "Runs Python and returns `it`.", json.dumps(code), None, hints)]

    def call(self, name, arguments):
        variables = dict(globals())
        try:
            exec(json.loads(arguments)["code"], variables)
        except Exception as error:
            raise Err(Failure(FailureCode.FAILED, f"{type(error).__name__}: {error}", "", []))
        return json.dumps({"it": variables.get("it")})
