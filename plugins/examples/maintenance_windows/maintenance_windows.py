"""An example policy in Python: no new instances while the machine is being maintained.

The settings name the windows. Inside of one, nobody may create or extend an instance, and is told until when and why; what is
there already can still be used and dropped. An instance that is to live for a given time lives until the next window at most:
the configuration has to let it change that, with `may_change = ["ttl_seconds"]`.
"""

import base64
import json
import re
from datetime import datetime, timezone
from urllib.parse import quote

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.rules import Rejection_Denied, Rejection_Invalid
from wit_world.imports import clock, random, settings
from wit_world.imports.types import FieldError, InstanceSpec

# A major version from 10 on, or one of its minor versions: it becomes an image's tag.
VERSION = re.compile(r"[1-9][0-9](\.(0|[1-9][0-9]?))?")
NAME_BYTES_MAX = 63
PASSWORD_BYTES_MAX = 1024
# What the host takes: ten years.
TTL_SECONDS_MAX = 10 * 365 * 86_400
# How much longer an instance lives that is extended without a word on how long.
EXTENSION_SECONDS = 60 * 60
WINDOW = {"from", "until", "reason"}


def a_time(given):
    """The time that RFC 3339 text says, or None."""
    try:
        time = datetime.fromisoformat(given)
    except (TypeError, ValueError):
        return None
    return time if time.tzinfo else None


def setting_problems(given):
    """Everything that is wrong with the settings: pairs of field and message."""
    for key in given.keys() - {"windows"}:
        yield key, "is not a setting; the only one is windows"
    windows = given.get("windows", [])
    if not isinstance(windows, list):
        yield "windows", "must be a list"
        return
    for number, window in enumerate(windows):
        field = f"windows[{number}]"
        if not isinstance(window, dict) or window.keys() != WINDOW:
            yield field, "must have from, until and reason, and nothing else"
            continue
        begins, ends = a_time(window["from"]), a_time(window["until"])
        for key, time in (("from", begins), ("until", ends)):
            if time is None:
                yield f"{field}.{key}", 'must be a time with its zone, such as "2026-12-24T18:00:00Z"'
        if begins and ends and begins >= ends:
            yield f"{field}.until", "must be later than from"
        if not isinstance(window["reason"], str) or not window["reason"]:
            yield f"{field}.reason", "must be text"


def request_problems(request):
    """Everything that is wrong with a request: pairs of field and message. No message repeats a value."""
    if request.version is not None and not VERSION.fullmatch(request.version):
        yield "version", 'must be a PostgreSQL version, such as "17" or "17.5"'
    for field, name in (("database", request.database), ("username", request.username)):
        if name is None:
            continue
        if not 1 <= len(name.encode()) <= NAME_BYTES_MAX or "\0" in name:
            yield field, f"must have 1 to {NAME_BYTES_MAX} bytes, none of them NUL"
    if request.database == "template0":
        yield "database", "must not be template0, which PostgreSQL lets nobody connect to"
    if request.username is not None and (request.username.startswith("pg_") or request.username in ("public", "none")):
        yield "username", "must not start with pg_ or be public or none: PostgreSQL keeps these role names for itself"
    password = request.password
    if password is not None and (not 1 <= len(password.encode()) <= PASSWORD_BYTES_MAX or "\0" in password):
        yield "password", f"must have 1 to {PASSWORD_BYTES_MAX} bytes, none of them NUL"


def ttl_problems(ttl_seconds):
    if ttl_seconds is not None and not 1 <= ttl_seconds <= TTL_SECONDS_MAX:
        yield "ttl_seconds", f"must be from 1 to {TTL_SECONDS_MAX}"


def refuse(problems):
    wrong = [FieldError(field=field, message=message) for field, message in problems]
    if wrong:
        raise Err(Rejection_Invalid(wrong))


def seconds_left():
    """How long it is until the next window, in whole seconds; None if there is none. Inside of one, nobody gets here."""
    now = datetime.fromtimestamp(clock.now() / 1000, timezone.utc)
    left = None
    for window in json.loads(settings.get()).get("windows", []):
        begins, ends = a_time(window["from"]), a_time(window["until"])
        if begins <= now < ends:
            raise Err(Rejection_Denied(f"until {window['until']} no instances are made: {window['reason']}"))
        if now < begins:
            until_then = int((begins - now).total_seconds())
            left = until_then if left is None else min(left, until_then)
    return left


def at_most(ttl_seconds, left):
    return ttl_seconds if left is None else max(1, min(ttl_seconds, left))


class Rules(exports.Rules):
    """What the world `policy` exports."""

    def check_settings(self, settings):
        wrong = [FieldError(field=field, message=message) for field, message in setting_problems(json.loads(settings))]
        if wrong:
            raise Err(wrong)

    def plan_create(self, request, defaults, caller):
        refuse([*request_problems(request), *ttl_problems(request.ttl_seconds)])
        left = seconds_left()
        password = request.password
        if password is None:
            password = base64.urlsafe_b64encode(random.bytes(24)).decode()
        return InstanceSpec(
            repository=defaults.repository,
            version=defaults.version if request.version is None else request.version,
            database="postgres" if request.database is None else request.database,
            username="postgres" if request.username is None else request.username,
            password=password,
            memory_mib=defaults.memory_mib,
            cpu_millis=defaults.cpu_millis,
            durable=defaults.durable,
            ttl_seconds=None if request.ttl_seconds is None else at_most(request.ttl_seconds, left),
        )

    def plan_extend(self, target, ttl_seconds, caller):
        refuse(ttl_problems(ttl_seconds))
        return at_most(EXTENSION_SECONDS if ttl_seconds is None else ttl_seconds, seconds_left())

    def authorize(self, action, target, caller):
        """Whatever there is may be seen, used and dropped."""

    def format_dsn(self, endpoint):
        host = "[" + endpoint.host.replace("%", "%25") + "]" if ":" in endpoint.host else endpoint.host
        username, password, database = (
            quote(part, safe="") for part in (endpoint.username, endpoint.password, endpoint.database)
        )
        return f"postgresql://{username}:{password}@{host}:{endpoint.port}/{database}"
