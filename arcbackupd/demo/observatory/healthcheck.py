#!/usr/bin/env python3
"""Exit 0 when the backend answers and reaches its database, 1 otherwise: the container's probe."""

import sys
import urllib.error
import urllib.request

try:
    urllib.request.urlopen("http://127.0.0.1:8000/health", timeout=5).close()
except (urllib.error.URLError, OSError) as error:
    sys.exit(f"not healthy: {error}")
