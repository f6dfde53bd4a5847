// Connects with node-postgres to the DSN in $DSN and prints who and where it is, as JSON.
const { Client } = require("pg");

async function main() {
  const client = new Client({ connectionString: process.env.DSN });
  await client.connect();
  const result = await client.query({ text: "SELECT current_user::text, current_database()::text", rowMode: "array" });
  console.log(JSON.stringify(result.rows[0]));
  await client.end();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
