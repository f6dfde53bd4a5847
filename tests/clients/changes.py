"""The names of the tools, before and after the server tells of a change, through the official Python SDK: argv is how the
protocol is negotiated ("legacy" or a version), then the server's command line."""

import asyncio
import json
import os
import sys
from datetime import timedelta

from mcp import Client, StdioServerParameters


async def main() -> None:
    mode, command, *arguments = sys.argv[1:]
    server = StdioServerParameters(command=command, args=arguments, env=dict(os.environ))
    changed = asyncio.Event()

    async def on_message(message: object) -> None:
        if getattr(message, "method", None) == "notifications/tools/list_changed":
            changed.set()

    async with Client(server, mode=mode, message_handler=on_message) as client:

        async def tell() -> None:
            tools = (await client.list_tools()).tools
            print(json.dumps([tool.name for tool in tools]), flush=True)

        if mode == "legacy":
            await tell()
            await changed.wait()
            await tell()
        else:
            async with client.listen(tools_list_changed=True) as changes:
                await tell()
                await anext(aiter(changes))
                # The SDK keeps what it has until it is told.
                await tell()


asyncio.run(asyncio.wait_for(main(), timedelta(minutes=1).total_seconds()))
