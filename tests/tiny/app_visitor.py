"""A visitor of the app: visits from standard input, outcomes on standard output, a line of JSON each.

A visit is the name of a tab and its values, of which [PATH] is a file. An outcome is {"values": ...} or
{"error": ...}. A process of its own, since its event loops outlive it.
"""

import json
import sys

from gradio_client import Client, handle_file

client = Client(sys.argv[1], verbose=False, download_files=False)
for line in sys.stdin:
    tab, *values = json.loads(line)
    values = [handle_file(*value) if isinstance(value, list) else value for value in values]
    try:
        outcome = {"values": client.predict(*values, api_name=f"/{tab}")}
    except Exception as error:  # all of them are sent
        outcome = {"error": str(error)}
    print(json.dumps(outcome), flush=True)
