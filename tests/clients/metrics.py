"""Reads the metrics at $URL as Prometheus does, once in each format, and prints the samples of each as JSON."""

import json
import os
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain

for accepted, parse in (("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", open_metrics), ("*/*", plain)):
    request = urllib.request.Request(os.environ["URL"], headers={"Accept": accepted})
    with urllib.request.urlopen(request, timeout=20) as response:
        kind, text = response.headers["Content-Type"], response.read().decode()
    samples = [[s.name, s.labels, s.value] for family in parse(text) for s in family.samples]
    print(json.dumps({"kind": kind, "samples": samples}))
