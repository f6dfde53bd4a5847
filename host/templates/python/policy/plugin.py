"""The policy {{name}}: a team's rules. Which versions of PostgreSQL there may be is a setting.

`wit/plugin.wit` has what the host asks, and what a policy may ask the host for.
"""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.rules import Rejection_Denied
from wit_world.imports import random, settings
from wit_world.imports.types import FieldError, InstanceSpec

from deciding import denial, dsn, problems

# How much randomness makes a password, in bytes.
PASSWORD_BYTES = 20
# How long an instance lives that is extended without a word on how long, in seconds: a day.
EXTENSION_SECONDS = 86_400


class Rules(exports.Rules):
    """What the world `policy` exports."""

    def check_settings(self, settings):
        wrong = [FieldError(field=field, message=message) for field, message in problems(json.loads(settings))]
        if wrong:
            raise Err(wrong)

    def plan_create(self, request, defaults, caller):
        version = request.version or defaults.version
        denied = denial(version, json.loads(settings.get()).get("versions", []))
        if denied:
            raise Err(Rejection_Denied(denied))
        password = request.password
        if password is None:
            password = random.bytes(PASSWORD_BYTES).hex()
        return InstanceSpec(
            repository=defaults.repository,
            version=version,
            database="postgres" if request.database is None else request.database,
            username="postgres" if request.username is None else request.username,
            password=password,
            memory_mib=defaults.memory_mib,
            cpu_millis=defaults.cpu_millis,
            durable=defaults.durable,
            ttl_seconds=request.ttl_seconds,
        )

    def plan_extend(self, target, ttl_seconds, caller):
        return EXTENSION_SECONDS if ttl_seconds is None else ttl_seconds

    def authorize(self, action, target, caller):
        """Whatever there is may be seen, used and dropped."""

    def format_dsn(self, endpoint):
        return dsn(endpoint.host, endpoint.port, endpoint.database, endpoint.username, endpoint.password)
