// The policy {{name}}: a team's rules. Which versions of PostgreSQL there may be is a setting.
//
// `wit/plugin.wit` has what the host asks, and what a policy may ask the host for.

import { bytes } from "dev-postgres:plugin/random@0.2.0";
import { get as ownSettings } from "dev-postgres:plugin/settings@0.2.0";

// How much randomness makes a password, in bytes.
const PASSWORD_BYTES = 20;
// How long an instance lives that is extended without a word on how long, in seconds: a day.
const EXTENSION_SECONDS = 86_400n;

/** The settings, or every problem that they have. */
function readSettings(json) {
  const { versions = [], ...others } = JSON.parse(json);
  const fields = Object.keys(others).map((field) => ({ field, message: "is not a setting; the only one is versions" }));
  if (!Array.isArray(versions) || !versions.every((version) => typeof version === "string")) {
    fields.push({ field: "versions", message: "must be a list of text" });
  }
  return { versions, fields };
}

const password = () => Array.from(bytes(PASSWORD_BYTES), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** A part of a URI, with everything encoded that a URI would take for its own. */
const encoded = (text) =>
  encodeURIComponent(text).replace(/[!'()*]/g, (c) => "%" + c.charCodeAt(0).toString(16).toUpperCase());

/** What the world `policy` exports. */
export const rules = {
  checkSettings(settings) {
    const { fields } = readSettings(settings);
    if (fields.length > 0) throw fields;
  },

  planCreate(request, defaults, caller) {
    const { versions } = readSettings(ownSettings());
    const version = request.version ?? defaults.version;
    if (versions.length > 0 && !versions.includes(version)) {
      throw { tag: "denied", val: `PostgreSQL ${version} is not among the team's versions: ${versions.join(", ")}` };
    }
    return {
      repository: defaults.repository,
      version,
      database: request.database ?? "postgres",
      username: request.username ?? "postgres",
      password: request.password ?? password(),
      memoryMib: defaults.memoryMib,
      cpuMillis: defaults.cpuMillis,
      durable: defaults.durable,
      ttlSeconds: request.ttlSeconds,
    };
  },

  planExtend(target, ttlSeconds, caller) {
    return ttlSeconds ?? EXTENSION_SECONDS;
  },

  /** Whatever there is may be seen, used and dropped. */
  authorize(action, target, caller) {},

  formatDsn({ host, port, database, username, password }) {
    const address = host.includes(":") ? `[${host.replaceAll("%", "%25")}]` : host;
    return `postgresql://${encoded(username)}:${encoded(password)}@${address}:${port}/${encoded(database)}`;
  },
};
