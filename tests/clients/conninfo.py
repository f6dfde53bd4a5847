"""Has libpq take apart the connection URIs in the file that is its argument, one a line; prints what each says, as JSON."""

import json
import sys

from psycopg.conninfo import conninfo_to_dict

with open(sys.argv[1], encoding="ascii") as uris:
    print(json.dumps([conninfo_to_dict(uri.rstrip("\n")) for uri in uris]))
