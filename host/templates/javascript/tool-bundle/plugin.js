// The tool bundle {{name}}: one tool, which counts the PostgreSQL instances of a host.
//
// It needs the grant `read`. `wit/plugin.wit` has all that a bundle may ask the host for.

import { list } from "dev-postgres:plugin/instances@0.2.0";
import { get as ownSettings } from "dev-postgres:plugin/settings@0.2.0";

/** The settings, or every problem that they have. */
function readSettings(json) {
  const { many = 5, ...others } = JSON.parse(json);
  const fields = Object.keys(others).map((field) => ({ field, message: "is not a setting; the only one is many" }));
  if (!Number.isInteger(many) || many < 1) {
    fields.push({ field: "many", message: "must be a whole number from 1 on" });
  }
  return { many, fields };
}

function count({ version }) {
  const counted = list().filter((instance) => version === undefined || instance.version === version).length;
  return { count: counted, many: counted >= readSettings(ownSettings()).many };
}

const INPUT_SCHEMA = {
  type: "object",
  properties: {
    version: { type: "string", description: 'Count these alone: a PostgreSQL version, such as "17".' },
  },
  additionalProperties: false,
};

const OUTPUT_SCHEMA = {
  type: "object",
  properties: {
    count: { type: "integer", description: "How many instances there are." },
    many: { type: "boolean", description: "Whether these are many, as the settings have it." },
  },
  required: ["count", "many"],
  additionalProperties: false,
};

/** What `work` returns or throws; an error of JavaScript's own as a failure, with its place on standard error. */
function explained(work) {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    console.error(error.stack);
    throw { code: "internal", message: String(error), advice: "This is a defect of {{name}}.", fields: [] };
  }
}

/** What the world `tool-bundle` exports. */
export const tools = {
  checkSettings(settings) {
    const { fields } = readSettings(settings);
    if (fields.length > 0) throw fields;
  },

  describe() {
    return [
      {
        name: "{{snake_name}}",
        title: "Count PostgreSQL instances",
        description: "Says how many throwaway PostgreSQL instances there are, and whether these are many.",
        inputSchema: JSON.stringify(INPUT_SCHEMA),
        outputSchema: JSON.stringify(OUTPUT_SCHEMA),
        hints: { readOnly: true, destructive: false, idempotent: true, openWorld: false },
      },
    ];
  },

  call(name, args) {
    // The host has checked both before.
    return explained(() => JSON.stringify(count(JSON.parse(args))));
  },
};
