"""What the server loads: importing this module reads the environment."""

import gc
import sys

from .app import create_app
from .logs import configure_logs
from .settings import get_settings

settings = get_settings()
configure_logs(settings.log, settings.environment, sys.stdout)
app = create_app(settings)

# Exclude everything that is loaded now from garbage collection. Under load, this reduced the 99th
# percentile of response times from 67 to 17 ms.
gc.collect()
gc.freeze()
