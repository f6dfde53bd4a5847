"""The tools through the official Python SDK: argv is the server's command line; prints what it saw as JSON."""

import asyncio
import json
import os
import sys
from datetime import timedelta

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

ODD = {
    "database": "my-db \"x\" 'y'",
    "username": "us er%/@",
    "password": "p@ss:/w?rd#1 %41'\"\\",
}


async def main() -> None:
    server = StdioServerParameters(command=sys.argv[1], args=sys.argv[2:], env=dict(os.environ))
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        initialized = await session.initialize()
        tools = (await session.list_tools()).tools
        steps: list[float] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            steps.append(progress)

        async def call(tool: str, arguments: dict) -> dict:
            result = await session.call_tool(tool, arguments, progress_callback=on_progress)
            assert not (getattr(result, "is_error", None) or getattr(result, "isError", None)), result
            structured = getattr(result, "structured_content", None) or getattr(result, "structuredContent", None)
            assert json.loads(result.content[0].text) == structured
            return structured

        plain = await call("create_postgres_instance", {})
        odd = await call("create_postgres_instance", ODD)
        # What the test does with the two while they live: one line in, one line out.
        print(json.dumps({"tools": [tool.name for tool in tools], "plain": plain, "odd": odd}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        listed = await call("list_postgres_instances", {})
        assert {plain["id"], odd["id"]} <= {instance["id"] for instance in listed["instances"]}
        got = await call("get_postgres_instance", {"id": odd["id"]})
        assert got == {name: value for name, value in odd.items() if name != "warnings"}
        healthy = await call("health_check_postgres", {"id": plain["id"]})
        dropped = [await call("drop_postgres_instance", {"id": made["id"]}) for made in (plain, odd)]
        gone = await session.call_tool("get_postgres_instance", {"id": odd["id"]})
        print(
            json.dumps(
                {
                    "protocol": str(getattr(initialized, "protocol_version", None) or initialized.protocolVersion),
                    "health": healthy["status"],
                    "dropped": [drop["dropped"] for drop in dropped],
                    "gone": json.loads(gone.content[0].text)["error"]["code"],
                    "progress": len(steps),
                }
            ),
            flush=True,
        )


asyncio.run(asyncio.wait_for(main(), timedelta(minutes=3).total_seconds()))
