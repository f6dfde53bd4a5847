// An example tool bundle in JavaScript: what is in an instance's database.
//
// One tool lists tables with their columns, the other shows the first rows of one. Neither changes anything: the statements
// are fixed, and names that come from outside are parameters or quoted.
//
// It needs the grants `read` and `sql`.

import { list } from "dev-postgres:plugin/instances@0.2.0";
import { get as ownSettings } from "dev-postgres:plugin/settings@0.2.0";
import { query } from "dev-postgres:plugin/sql@0.2.0";

const ROWS_MAX = 1000;

const COLUMNS = `
  SELECT table_name::text, column_name::text, data_type::text, is_nullable = 'YES'
  FROM information_schema.columns WHERE table_schema = $1 ORDER BY table_name, ordinal_position`;

const failure = (code, message, advice = "") => ({ code, message, advice, fields: [] });

/** The settings, or every problem that they have. */
function readSettings(json) {
  const { rows = 5, schema = "public", ...others } = JSON.parse(json);
  const fields = Object.keys(others).map((field) => ({ field, message: "is not a setting; there are rows and schema" }));
  if (!Number.isInteger(rows) || rows < 1 || rows > ROWS_MAX) {
    fields.push({ field: "rows", message: `must be a whole number from 1 to ${ROWS_MAX}` });
  }
  if (typeof schema !== "string" || schema === "") {
    fields.push({ field: "schema", message: "must be a schema's name" });
  }
  return { rows, schema, fields };
}

/** The instance that is meant: the only one, if the caller leaves it open. */
function instanceId(id) {
  if (id !== undefined) return id;
  const ids = list().map((instance) => instance.id);
  if (ids.length === 1) return ids[0];
  if (ids.length === 0) throw failure("not-found", "there is no instance", "Create one with create_postgres_instance.");
  throw failure("invalid-arguments", `there are ${ids.length} instances`, `Pass one of these as id: ${ids.join(", ")}.`);
}

/** A value of SQL as JSON has it. */
function json({ tag, val }) {
  switch (tag) {
    case "null":
      return null;
    case "integer": // a BigInt; beyond 2^53 a number of JSON would lose digits
      return Number.isSafeInteger(Number(val)) ? Number(val) : String(val);
    case "float":
      return Number.isFinite(val) ? val : String(val);
    case "bytes":
      return "\\x" + Array.from(val, (byte) => byte.toString(16).padStart(2, "0")).join("");
    case "json":
      return JSON.parse(val);
    default:
      return val;
  }
}

const quoted = (name) => `"${name.replaceAll('"', '""')}"`;

function describeSchema({ id, schema = readSettings(ownSettings()).schema }) {
  const instance = instanceId(id);
  const tables = new Map();
  for (const [table, name, type, nullable] of query(instance, COLUMNS, [{ tag: "text", val: schema }]).rows) {
    const columns = tables.get(table.val) ?? [];
    columns.push({ name: name.val, type: type.val, nullable: nullable.val });
    tables.set(table.val, columns);
  }
  return { id: instance, tables: Array.from(tables, ([name, columns]) => ({ name, columns })) };
}

function sampleTable({ id, table, schema }) {
  const settings = readSettings(ownSettings());
  const instance = instanceId(id);
  const from = `${quoted(schema ?? settings.schema)}.${quoted(table)}`;
  const found = query(instance, `SELECT * FROM ${from} LIMIT $1::bigint`, [{ tag: "integer", val: BigInt(settings.rows) }]);
  return {
    id: instance,
    columns: found.columns.map(({ name, typeName }) => ({ name, type: typeName })),
    rows: found.rows.map((row) => row.map(json)),
  };
}

const text = (description) => ({ type: "string", description });
const object = (properties, required) => ({ type: "object", properties, required, additionalProperties: false });
const array = (items, description) => ({ type: "array", items, description });

const ID = text("The instance's id. Leave it out if there is only one instance.");
const SCHEMA = text("The schema's name. Leave it out for this server's choice.");
const HINTS = { readOnly: true, destructive: false, idempotent: true, openWorld: false };

const TOOLS = {
  describe_postgres_schema: {
    run: describeSchema,
    title: "Describe a PostgreSQL schema",
    description: "Lists the tables of a schema with their columns. Use it before you write SQL for an instance.",
    input: object({ id: ID, schema: SCHEMA }, []),
    output: object(
      {
        id: text("The instance's id."),
        tables: array(
          object(
            {
              name: text("The table's name."),
              columns: array(
                object(
                  {
                    name: text("The column's name."),
                    type: text("Its type."),
                    nullable: { type: "boolean", description: "Whether it may be NULL." },
                  },
                  ["name", "type", "nullable"],
                ),
                "In their order.",
              ),
            },
            ["name", "columns"],
          ),
          "By name.",
        ),
      },
      ["id", "tables"],
    ),
  },
  sample_postgres_table: {
    run: sampleTable,
    title: "Show a table's first rows",
    description: "Shows some rows of a table, to see what its data look like.",
    input: object({ id: ID, schema: SCHEMA, table: text("The table's name, as it is, without quotes.") }, ["table"]),
    output: object(
      {
        id: text("The instance's id."),
        columns: array(
          object({ name: text("The column's name."), type: text("Its type, as in pg_type.") }, ["name", "type"]),
          "In the order of the values.",
        ),
        rows: array(array({}, "A row's values."), "In no particular order."),
      },
      ["id", "columns", "rows"],
    ),
  },
};

/** What the world `tool-bundle` exports. */
export const tools = {
  checkSettings(settings) {
    const { fields } = readSettings(settings);
    if (fields.length > 0) throw fields;
  },

  describe() {
    return Object.entries(TOOLS).map(([name, { title, description, input, output }]) => ({
      name,
      title,
      description,
      inputSchema: JSON.stringify(input),
      outputSchema: JSON.stringify(output),
      hints: HINTS,
    }));
  },

  call(name, args) {
    // The host has checked both before.
    return JSON.stringify(TOOLS[name].run(JSON.parse(args)));
  },
};
