"""What the rules work out. It knows nothing of WebAssembly, so that plain tests cover it."""

from urllib.parse import quote


def problems(settings):
    """Everything that is wrong with the settings: pairs of field and message."""
    for key in settings.keys() - {"versions"}:
        yield key, "is not a setting; the only one is versions"
    versions = settings.get("versions", [])
    if not isinstance(versions, list) or not all(isinstance(version, str) for version in versions):
        yield "versions", "must be a list of text"


def denial(version, allowed):
    """Why there may be no instance of this version; None if there may."""
    if allowed and version not in allowed:
        return f"PostgreSQL {version} is not among the team's versions: {', '.join(allowed)}"
    return None


def dsn(host, port, database, username, password):
    """The connection URI, with everything encoded that a URI would take for its own."""
    if ":" in host:
        host = "[" + host.replace("%", "%25") + "]"
    username, password, database = (quote(part, safe="") for part in (username, password, database))
    return f"postgresql://{username}:{password}@{host}:{port}/{database}"
