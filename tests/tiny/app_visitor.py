"""A visitor of the app: visits from standard input, outcomes on standard output, a line of JSON each.

A visit is the name of a tab and its values, of which [PATH] is a file. An outcome is {"values": ...} or
{"error": ...}. "start TAB" only starts the work, and "cancel TAB" cancels it twice: while it waits behind the
same work, and while it runs. A process of its own, since its event loops outlive it.
"""

import json
import sys
import time

from gradio_client import Client, handle_file


def start(values, tab):
    """Work that runs, as its progress tells."""
    job = client.submit(*values, api_name=f"/{tab}")
    while not job.status().progress_data:
        time.sleep(0.05)
    return job


def outcome_of(values, action, tab):
    if action == "start":
        start(values, tab)
        return "started"
    if action == "cancel":
        first = start(values, tab)
        second = client.submit(*values, api_name=f"/{tab}")
        while second.status().rank is None:
            time.sleep(0.05)
        for job in (second, first):
            job.cancel()
        return "cancelled"
    return client.predict(*values, api_name=f"/{tab}")


client = Client(sys.argv[1], verbose=False, download_files=False)
for line in sys.stdin:
    tab, *values = json.loads(line)
    values = [handle_file(*value) if isinstance(value, list) else value for value in values]
    try:
        action, _, name = tab.rpartition(" ")
        outcome = {"values": outcome_of(values, action, name)}
    except Exception as error:  # all of them are sent
        outcome = {"error": str(error)}
    print(json.dumps(outcome), flush=True)
